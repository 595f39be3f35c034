//! SRV records (RFC 2782): read from the answer of a name server, and put in order. Pure: no network, and no random numbers but
//! those given.

/// The most targets of one lookup. Further ones are left out.
pub(crate) const MOST: usize = 16;

/// The most aliases from the name that was asked for to the records.
const ALIASES: usize = 16;

/// The longest name in a message, in bytes, without the root at its end.
const NAME_MAX: usize = 254;

const CLASS_IN: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_SRV: u16 = 33;

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Srv {
    pub(crate) priority: u16,
    pub(crate) weight: u16,
    /// A host name without the dot at the end.
    pub(crate) target: String,
    pub(crate) port: u16,
}

/// Reads the records of this name, or of those that it is an alias of, out of the answer of a name server.
///
/// # Errors
/// The reason why there is no target. Targets that are no host names, and those without a port, are left out.
pub(super) fn read(message: &[u8], name: &str) -> Result<Vec<Srv>, String> {
    let (records, aliases) = Reader { message, at: 0 }.answers().ok_or("the name server's answer is malformed")?;
    let mut names = vec![name.trim_end_matches('.').to_ascii_lowercase()];
    while let Some((_, alias)) = aliases.iter().find(|(of, alias)| names.contains(of) && !names.contains(alias)) {
        if names.len() > ALIASES {
            return Err(format!("{name} has too many aliases"));
        }
        names.push(alias.clone());
    }
    let of_name: Vec<Srv> =
        records.into_iter().filter(|(of, _)| names.contains(of)).map(|(_, record)| record).collect();
    let is_offered = |record: &Srv| !record.target.is_empty();
    let is_usable = |record: &Srv| record.port != 0 && !record.target.contains('\\');
    match of_name.iter().find(|record| is_offered(record)) {
        None if of_name.is_empty() => return Err(format!("{name} has no SRV records")),
        None => return Err(format!("the service is not offered: {name} says so")),
        Some(first) if !of_name.iter().any(|record| is_offered(record) && is_usable(record)) => {
            return Err(format!("{name} names no target that can be connected to: {}:{}", first.target, first.port));
        }
        Some(_) => {}
    }
    Ok(of_name.into_iter().filter(|record| is_offered(record) && is_usable(record)).collect())
}

/// Puts records in the order in which to try them, and leaves out what is over [`MOST`]: by priority, and of the same priority at
/// random, by weight. `random` gives a number from 0 up to its argument, inclusive.
pub(super) fn order(mut records: Vec<Srv>, random: &mut impl FnMut(u32) -> u32) -> Vec<Srv> {
    records.sort_by_key(|record| (record.priority, record.weight != 0));
    let mut ordered = Vec::new();
    while ordered.len() < MOST
        && let Some(first) = records.first()
    {
        let group = records.partition_point(|record| record.priority <= first.priority);
        // At most 2¹³ records fit into a message.
        let sum = records[..group].iter().map(|record| u32::from(record.weight)).sum();
        let (chosen, mut running) = (random(sum), 0);
        let index = records[..group].iter().position(|record| {
            running += u32::from(record.weight);
            running >= chosen
        });
        ordered.push(records.remove(index.unwrap_or(0)));
    }
    ordered
}

/// Names in lower case, each with what is known of it.
type Named<T> = Vec<(String, T)>;

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Reads the answer section: SRV records and aliases. `None` if the message is malformed, truncated or no answer.
    fn answers(&mut self) -> Option<(Named<Srv>, Named<String>)> {
        const IS_RESPONSE: u16 = 0x8000;
        const IS_TRUNCATED: u16 = 0x0200;
        const CODE: u16 = 0x000f;
        self.skip(2)?;
        let flags = self.number()?;
        if flags & (IS_RESPONSE | IS_TRUNCATED | CODE) != IS_RESPONSE {
            return None;
        }
        let (questions, answers) = (self.number()?, self.number()?);
        self.skip(4)?;
        for _ in 0..questions {
            self.name()?;
            self.skip(4)?;
        }
        let (mut records, mut aliases) = (Vec::new(), Vec::new());
        for _ in 0..answers {
            let owner = self.name()?.to_ascii_lowercase();
            let (kind, class) = (self.number()?, self.number()?);
            self.skip(4)?;
            let length = usize::from(self.number()?);
            let end = self.at.checked_add(length).filter(|end| *end <= self.message.len())?;
            match (class, kind) {
                (CLASS_IN, TYPE_SRV) => records.push((owner, self.srv()?)),
                (CLASS_IN, TYPE_CNAME) => aliases.push((owner, self.name()?.to_ascii_lowercase())),
                _ => self.at = end,
            }
            if self.at != end {
                return None;
            }
        }
        Some((records, aliases))
    }

    fn srv(&mut self) -> Option<Srv> {
        let (priority, weight, port) = (self.number()?, self.number()?, self.number()?);
        Some(Srv { priority, weight, target: self.name()?, port })
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|at| *at <= self.message.len())?;
        Some(())
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.message.get(self.at..)?.first_chunk::<2>()?;
        self.at += 2;
        Some(u16::from_be_bytes(*bytes))
    }

    /// Reads a name, which may be compressed. The root is empty. Bytes that no host name has are escaped as `\046`.
    fn name(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut length = 0;
        let (mut at, mut after, mut lowest) = (self.at, None, self.at);
        loop {
            let first = usize::from(*self.message.get(at)?);
            match first {
                0 => break,
                1..=63 => {
                    let label = self.message.get(at + 1..at + 1 + first)?;
                    length += label.len() + 1;
                    if length > NAME_MAX {
                        return None;
                    }
                    if !text.is_empty() {
                        text.push('.');
                    }
                    label.iter().for_each(|byte| push_escaped(&mut text, *byte));
                    at += 1 + first;
                }
                // A pointer, which leads backwards: there are no circles.
                0xc0.. => {
                    let target = (first & 0x3f) << 8 | usize::from(*self.message.get(at + 1)?);
                    after.get_or_insert(at + 2);
                    if target >= lowest {
                        return None;
                    }
                    (at, lowest) = (target, target);
                }
                _ => return None,
            }
        }
        self.at = after.unwrap_or(at + 1);
        Some(text)
    }
}

fn push_escaped(text: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
        text.push(byte.into());
    } else {
        text.push_str(&format!("\\{byte:03}"));
    }
}

/// For fuzzing, and for the tests: whatever a name server answers, only hosts with ports are targets, a few, by priority.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(data: &[u8]) {
    let Some((seed, message)) = data.split_first() else { return };
    let Ok(records) = read(message, "_a._tcp.b") else { return };
    assert!(!records.is_empty());
    let mut seed = u32::from(*seed);
    let mut random = |most: u32| {
        seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
        ((u64::from(seed) * (u64::from(most) + 1)) >> 32) as u32
    };
    let ordered = order(records.clone(), &mut random);
    assert_eq!(ordered.len(), records.len().min(MOST));
    assert!(ordered.is_sorted_by_key(|record| record.priority));
    let mut left = records;
    for record in &ordered {
        assert!(record.port > 0 && !record.target.is_empty());
        assert!(record.target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
        let place = left.iter().position(|known| known == record).expect("each is one of those found, once");
        left.remove(place);
    }
    assert!(left.iter().all(|rest| ordered.iter().all(|tried| tried.priority <= rest.priority)));
}

#[cfg(test)]
mod tests;
