//! Properties that must hold for any input, for fuzzing and for tests.

use super::names::{Matcher, ServiceType, Txt, alternative, check_name, exactly};

/// Checks service types, names and patterns, from three texts separated by NUL.
pub(crate) fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '\0');
    let mut next = || parts.next().unwrap_or_default();
    let (kind, name, expression) = (next(), next(), next());
    if let Ok(kind) = ServiceType::parse(kind) {
        assert_eq!(ServiceType::parse(kind.as_str()).as_ref(), Ok(&kind));
        assert_eq!(ServiceType::parse(kind.short()), Ok(kind));
    }
    if let Ok(matcher) = Matcher::parse(expression) {
        matcher.matches(name);
    }
    assert!(Matcher::parse(&exactly(name)).is_ok_and(|matcher| matcher.matches(name)), "{name:?}");
    if check_name(name).is_ok() {
        let other = alternative(name);
        assert_ne!(other, name);
        assert_eq!(check_name(&other), Ok(()), "{other:?}");
    }
}

/// Checks a TXT record: strings with their length in front.
pub(crate) fn txt(mut data: &[u8]) {
    let mut strings = Vec::new();
    while let [length, rest @ ..] = data {
        let length = usize::from(*length).min(rest.len());
        strings.push(rest[..length].to_vec());
        data = &rest[length..];
    }
    let given = strings.clone();
    let txt = Txt::received(strings);
    assert!(given.starts_with(txt.strings()));
    assert!(txt.strings().iter().map(|string| string.len() + 1).sum::<usize>() <= 8900);
    for (key, _) in txt.pairs() {
        assert!(!key.is_empty() && !key.contains(&b'='));
        if let Ok(key) = std::str::from_utf8(key) {
            assert!(txt.value(key).is_some());
        }
    }
    let mut own = Txt::default();
    for (key, value) in txt.pairs() {
        if let Ok(key) = std::str::from_utf8(key) {
            let _ = own.add(key, value);
        }
    }
    let _ = super::backend::check_txt(&own);
}

/// Checks the readers of D-Bus messages.
#[cfg(feature = "avahi")]
pub(crate) mod bus {
    use gio::{DBusCapabilityFlags, DBusMessage};
    use glib::variant::ToVariant;

    use crate::avahi::bus::{Input, Received};
    use crate::avahi::replies::{read_browser, read_resolved};

    /// Checks bytes as they arrive, in two parts.
    pub(crate) fn bytes(data: &[u8]) {
        let (split, data) = data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest));
        let stream = [b"OK 0123456789\r\n", data].concat();
        let (first, second) = stream.split_at(split.min(stream.len()));
        let whole = read(&[&stream]);
        assert_eq!(read(&[first, second]), whole, "in two parts");
    }

    /// Checks messages of Avahi with some bytes changed: `data` contains pairs of a position and a value.
    pub(crate) fn damaged(data: &[u8]) {
        let (text, changes) = data.split_at(data.len() / 2);
        let text = String::from_utf8_lossy(text).replace('\0', "");
        let (a, b, c) = ("_chat._tcp", "local", "here.local");
        let item = (2, 0, &text, a, b, 0u32).to_variant();
        let txt = vec![text.as_bytes().to_vec(), b"key=value".to_vec()];
        let answer = (2, 0, &text, a, b, c, 0, &text, 1234u16, txt, 0u32).to_variant();
        let mut stream = b"OK 0123456789\r\n".to_vec();
        for (member, body) in [("ItemNew", item), ("Found", answer), ("Failure", (&text,).to_variant())] {
            let message = DBusMessage::new_signal("/Client1/Object2", "org.freedesktop.Avahi.ServiceBrowser", member);
            message.set_body(&body);
            message.set_serial(7);
            let blob = message.to_blob(DBusCapabilityFlags::NONE);
            stream.extend(blob.expect("a message that can be packed"));
        }
        let head = 16;
        for change in changes.chunks_exact(3) {
            let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
            let place = head + place % (stream.len() - head);
            stream[place] = change[2];
        }
        read(&[&stream]);
    }

    /// Returns the number of messages, and the error that followed them.
    fn read(parts: &[&[u8]]) -> (usize, Option<String>) {
        let mut input = Input::new(1000);
        let mut messages = 0;
        for part in parts {
            input.push(part);
            loop {
                match input.next() {
                    Ok(Some(Received::Challenge(_) | Received::Accepted)) => {}
                    Ok(Some(Received::Message(message))) => {
                        messages += 1;
                        make_of(&message);
                    }
                    Ok(None) => break,
                    Err(error) => return (messages, Some(error)),
                }
            }
        }
        (messages, None)
    }

    fn make_of(message: &DBusMessage) {
        let (_, _, _) = (message.path(), message.sender(), message.reply_serial());
        let (_, _) = (message.error_name(), message.arg0());
        let body = message.body().unwrap_or_else(|| ().to_variant());
        let member = message.member();
        read_browser(member.as_deref().unwrap_or_default(), &body);
        if let Some(found) = read_resolved(&body) {
            assert!(!found.address.ip().is_unspecified() && !found.address.ip().is_multicast());
        }
        let _ = body.get::<(i32, String)>();
        let _ = body.get::<(String, String, String)>();
    }
}
