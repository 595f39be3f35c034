//! Answers to the challenge of a proxy, or of an HTTP server: Basic (RFC 7617) and Digest (RFC 7616).

use glib::ChecksumType;

use super::hop::Credentials;
use crate::log::Printable;

/// The most schemes that an error names.
const NAMED: usize = 8;

/// A challenge: its scheme and parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        let known = self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, value)| value.as_str())
    }

    fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }
}

/// Returns the value of `Proxy-Authorization` for the strongest challenge in these header fields.
///
/// # Errors
/// The schemes that were offered, if none is known.
pub(super) fn answer(fields: &str, credentials: &Credentials, target: &str) -> Result<String, String> {
    let challenges: Vec<Challenge> = fields.lines().filter_map(value).flat_map(challenges).collect();
    let Credentials { user, password } = credentials;
    if let Some((_, digest)) = strongest(&challenges) {
        let nonce = client_nonce().ok_or("no random numbers from the system")?;
        return Ok(digest.answer(user, password, &Asked { method: "CONNECT", target, count: 1, nonce: &nonce }));
    }
    if challenges.iter().any(|challenge| challenge.is("Basic")) {
        return Ok(format!("Basic {}", glib::base64_encode(format!("{user}:{password}").as_bytes())));
    }
    let offered: Vec<&str> = challenges.iter().take(NAMED).map(|challenge| challenge.scheme.as_str()).collect();
    Err(format!(
        "it offers no authentication that is known here, which is Basic and Digest with MD5 or SHA-256; it offers: {}",
        Printable(&offered.join(", "))
    ))
}

/// Returns the strongest challenge of Digest that can be answered.
fn strongest(challenges: &[Challenge]) -> Option<(&Challenge, Digest<'_>)> {
    let digests = || challenges.iter().filter(|challenge| challenge.is("Digest"));
    let read = |challenge, hash| {
        let digest = Digest::read(challenge).filter(|digest| digest.hash == hash);
        digest.map(|digest| (challenge, digest))
    };
    [Hash::Sha256, Hash::Md5].into_iter().find_map(|hash| digests().find_map(|challenge| read(challenge, hash)))
}

/// Returns the strongest challenge of Digest in the values of `WWW-Authenticate`.
#[cfg(feature = "http")]
pub(crate) fn digest<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let challenges: Vec<Challenge> = values.into_iter().flat_map(challenges).collect();
    strongest(&challenges).map(|(challenge, _)| challenge.clone())
}

#[cfg(feature = "http")]
impl Challenge {
    /// Returns the value of `Authorization` for a request, which is the `count`th with this challenge. `None` if the system has no
    /// random numbers.
    pub(crate) fn answer(&self, user: &str, password: &str, method: &str, target: &str, count: u32) -> Option<String> {
        let nonce = client_nonce()?;
        Some(Digest::read(self)?.answer(user, password, &Asked { method, target, count, nonce: &nonce }))
    }

    /// Returns whether the credentials were right and the nonce too old.
    pub(crate) fn is_stale(&self) -> bool {
        self.get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true"))
    }
}

/// Returns the value of a line `Proxy-Authenticate: …`.
fn value(line: &str) -> Option<&str> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("Proxy-Authenticate").then_some(value)
}

/// Splits a list of challenges (RFC 9110, section 11.6.1). What does not follow the grammar is passed over.
pub(super) fn challenges(value: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',', '\r']);
        let (word, after) = token(rest);
        if word.is_empty() {
            // Passes over one character.
            let mut chars = rest.chars();
            if chars.next().is_none() {
                return found;
            }
            rest = chars.as_str();
            continue;
        }
        rest = after;
        match (after.trim_start_matches([' ', '\t']).strip_prefix('='), found.last_mut()) {
            (Some(after), Some(challenge)) => {
                let (value, after) = parameter(after.trim_start_matches([' ', '\t']));
                challenge.parameters.push((word.into(), value));
                rest = after;
            }
            _ => found.push(Challenge { scheme: word.into(), parameters: Vec::new() }),
        }
    }
}

/// Splits a token off the beginning of a text.
fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// Splits the value of a parameter, a token or a quoted string, off the beginning of a text.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.into(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[derive(Clone, Copy, PartialEq)]
enum Hash {
    Md5,
    Sha256,
}

/// A request that is to be answered for.
struct Asked<'a> {
    method: &'a str,
    target: &'a str,
    count: u32,
    nonce: &'a str,
}

/// A challenge of Digest that can be answered.
struct Digest<'a> {
    hash: Hash,
    algorithm: Option<&'a str>,
    /// The variant that hashes the nonces as well.
    is_session: bool,
    realm: &'a str,
    nonce: &'a str,
    opaque: Option<&'a str>,
    has_quality: bool,
}

impl<'a> Digest<'a> {
    fn read(challenge: &'a Challenge) -> Option<Self> {
        if challenge.parameters.iter().any(|(_, value)| value.contains(char::is_control)) {
            return None;
        }
        let algorithm = challenge.get("algorithm");
        let (hash, is_session) = match algorithm.unwrap_or("MD5").to_ascii_uppercase().as_str() {
            "MD5" => (Hash::Md5, false),
            "MD5-SESS" => (Hash::Md5, true),
            "SHA-256" => (Hash::Sha256, false),
            "SHA-256-SESS" => (Hash::Sha256, true),
            _ => return None,
        };
        let qualities = challenge.get("qop");
        let is_auth = |known: &str| known.trim().eq_ignore_ascii_case("auth");
        if qualities.is_some_and(|list| !list.split(',').any(is_auth)) {
            return None;
        }
        Some(Digest {
            hash,
            algorithm,
            is_session,
            realm: challenge.get("realm")?,
            nonce: challenge.get("nonce")?,
            opaque: challenge.get("opaque"),
            has_quality: qualities.is_some(),
        })
    }

    fn answer(&self, user: &str, password: &str, asked: &Asked<'_>) -> String {
        let Asked { method, target, count, nonce: client_nonce } = asked;
        let Digest { realm, nonce, .. } = self;
        let mut secret = self.digest(&format!("{user}:{realm}:{password}"));
        if self.is_session {
            secret = self.digest(&format!("{secret}:{nonce}:{client_nonce}"));
        }
        let request = self.digest(&format!("{method}:{target}"));
        let response = match self.has_quality {
            true => self.digest(&format!("{secret}:{nonce}:{count:08x}:{client_nonce}:auth:{request}")),
            false => self.digest(&format!("{secret}:{nonce}:{request}")),
        };
        let mut answer = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{response}\"",
            quote(user),
            quote(realm),
            quote(nonce),
            quote(target)
        );
        if let Some(algorithm) = self.algorithm {
            answer += &format!(", algorithm={}", token(algorithm).0);
        }
        if let Some(opaque) = self.opaque {
            answer += &format!(", opaque={}", quote(opaque));
        }
        if self.has_quality {
            answer += &format!(", qop=auth, nc={count:08x}");
        }
        if self.has_quality || self.is_session {
            answer += &format!(", cnonce={}", quote(client_nonce));
        }
        answer
    }

    fn digest(&self, text: &str) -> String {
        let kind = match self.hash {
            Hash::Md5 => ChecksumType::Md5,
            Hash::Sha256 => ChecksumType::Sha256,
        };
        glib::compute_checksum_for_data(kind, text.as_bytes()).map(String::from).unwrap_or_default()
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Returns 16 random bytes as text.
fn client_nonce() -> Option<String> {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials { user: "Mufasa".into(), password: "Circle of Life".into() }
    }

    #[test]
    fn lists_are_taken_apart() {
        let of = |value: &str| -> Vec<String> {
            let shown = |challenge: Challenge| {
                let parameters = challenge.parameters.iter().map(|(name, value)| format!("{name}={value}"));
                [vec![challenge.scheme], parameters.collect()].concat().join(";")
            };
            challenges(value).into_iter().map(shown).collect()
        };
        for (value, expected) in [
            (" Basic realm=\"a, b\"", &["Basic;realm=a, b"][..]),
            (
                "Negotiate, Basic realm=x , Digest nonce = \"q\\\"\\\\\",qop=auth",
                &["Negotiate", "Basic;realm=x", "Digest;nonce=q\"\\;qop=auth"],
            ),
            ("", &[]),
            (",,=;\u{fffd}\"", &[]),
            ("Basic realm=\"open", &["Basic;realm=open"]),
            ("Basic realm=", &["Basic;realm="]),
            ("NTLM TlRMTVNTUAAC=", &["NTLM;TlRMTVNTUAAC="]),
        ] {
            assert_eq!(of(value), expected, "{value}");
        }
    }

    /// The nonces and the digest of a GET in RFC 7616, section 3.9.1, with the method replaced: computed by Python's hashlib.
    #[test]
    fn digests_are_those_of_the_standard() {
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        let opaque = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS";
        let client_nonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let asked = Asked { method: "CONNECT", target: "target.test:443", count: 1, nonce: client_nonce };
        for (algorithm, qop, response) in EXPECTED {
            let fields = format!(
                "Digest realm=\"http-auth@example.org\", qop=\"{qop}\", algorithm={algorithm}, nonce=\"{nonce}\", \
                 opaque=\"{opaque}\""
            )
            .replace("qop=\"\", ", "");
            let list = challenges(&fields);
            let answer = Digest::read(&list[0]).unwrap().answer("Mufasa", "Circle of Life", &asked);
            assert!(answer.contains(&format!("response=\"{response}\"")), "{algorithm} {qop}: {answer}");
            assert!(answer.contains(&format!("opaque=\"{opaque}\"")) && !answer.contains("Circle"), "{answer}");
        }
    }

    #[test]
    fn the_strongest_is_answered() {
        let basic = "Proxy-Authenticate: Basic realm=x";
        let digest = |algorithm: &str| format!("proxy-authenticate: Digest realm=x, nonce=y, algorithm={algorithm}");
        for (fields, begins, part) in [
            (basic.to_string(), "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl", ""),
            (format!("{basic}\r\n{}\r\n", digest("MD5")), "Digest ", "algorithm=MD5"),
            (format!("{}\r\n{}\r\n{basic}", digest("MD5"), digest("SHA-256")), "Digest ", "algorithm=SHA-256"),
            (format!("{}\r\n{basic}", digest("SHA-512-256")), "Basic ", ""),
            (format!("{}, qop=auth-int\r\n{basic}", digest("MD5")), "Basic ", ""),
            (format!("X: y\r\nProxy-Authenticate: Digest realm=\"\t\", nonce=y\r\n{basic}"), "Basic ", ""),
        ] {
            let answer = answer(&fields, &credentials(), "h:1").unwrap();
            assert!(answer.starts_with(begins) && answer.contains(part), "{fields}: {answer}");
        }
        let problem =
            answer("Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM", &credentials(), "h:1").unwrap_err();
        assert!(problem.ends_with("it offers: Negotiate, NTLM"), "{problem}");
    }

    const EXPECTED: [(&str, &str, &str); 6] = [
        ("MD5", "auth, auth-int", "331ebe6662b510d932a0e9ba1ddcd8f3"),
        ("MD5", "", "183be6731dc612b61a029937635e13ec"),
        ("MD5-sess", "auth", "f8dacf25a4fe938515ce65afc9b8059e"),
        ("SHA-256", "auth, auth-int", "b1315023ad2d0bc1814d0d1a13162d9513afd124be8fdf9a77f8822d04ba7241"),
        ("SHA-256", "", "02ed4238e6d4770892881757c7e59aaf3c3bee5de158401d1b7aaee844e74eea"),
        ("SHA-256-sess", "auth", "424f1ae9327fb5213da05a8a3d5fe36e12523a84d56fbee9620c23c74d722968"),
    ];
}
