//! Messages, received and to be sent.

use std::fmt;

/// A message: text or bytes, lent.
///
/// It shows itself as its text, or as the number of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message<'a> {
    /// A text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Returns the text. `None` for bytes.
    pub fn text(self) -> Option<&'a str> {
        match self {
            Message::Text(text) => Some(text),
            Message::Binary(_) => None,
        }
    }

    /// Returns the content as bytes, those of a text as well.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    /// Returns a copy that owns its content.
    pub fn to_owned(self) -> OwnedMessage {
        match self {
            Message::Text(text) => OwnedMessage::Text(text.to_owned()),
            Message::Binary(bytes) => OwnedMessage::Binary(bytes.to_owned()),
        }
    }
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Text(text) => f.write_str(text),
            Message::Binary(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

/// A message that owns its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OwnedMessage {
    /// A text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl OwnedMessage {
    /// Returns the message, lent.
    pub fn as_message(&self) -> Message<'_> {
        match self {
            OwnedMessage::Text(text) => Message::Text(text),
            OwnedMessage::Binary(bytes) => Message::Binary(bytes),
        }
    }

    /// Returns the text. `None` for bytes.
    pub fn text(&self) -> Option<&str> {
        self.as_message().text()
    }

    /// Returns the content as bytes, those of a text as well.
    pub fn bytes(&self) -> &[u8] {
        self.as_message().bytes()
    }
}

impl fmt::Display for OwnedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_message().fmt(f)
    }
}

impl From<Message<'_>> for OwnedMessage {
    fn from(message: Message<'_>) -> Self {
        message.to_owned()
    }
}

/// Something that can be sent as a message: strings are sent as text, bytes as binary messages.
pub trait ToMessage {
    /// Returns the message.
    fn to_message(&self) -> Message<'_>;
}

impl<T: ToMessage + ?Sized> ToMessage for &T {
    fn to_message(&self) -> Message<'_> {
        (**self).to_message()
    }
}

impl ToMessage for Message<'_> {
    fn to_message(&self) -> Message<'_> {
        *self
    }
}

impl ToMessage for OwnedMessage {
    fn to_message(&self) -> Message<'_> {
        self.as_message()
    }
}

macro_rules! text {
    ($($type:ty),*) => {$(
        impl ToMessage for $type {
            fn to_message(&self) -> Message<'_> {
                Message::Text(self)
            }
        }
    )*};
}

macro_rules! binary {
    ($($type:ty),*) => {$(
        impl ToMessage for $type {
            fn to_message(&self) -> Message<'_> {
                Message::Binary(self)
            }
        }
    )*};
}

text!(str, String, Box<str>, std::borrow::Cow<'_, str>);
binary!([u8], Vec<u8>, Box<[u8]>);

impl<const N: usize> ToMessage for [u8; N] {
    fn to_message(&self) -> Message<'_> {
        Message::Binary(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_text_and_bytes_are_binary() {
        fn sent(message: impl ToMessage) -> OwnedMessage {
            message.to_message().to_owned()
        }
        let text = OwnedMessage::Text("a".into());
        for message in
            [sent("a"), sent("a".to_string()), sent(Box::<str>::from("a")), sent(&text), sent(text.as_message())]
        {
            assert_eq!(message, text);
        }
        let bytes = OwnedMessage::Binary(vec![97]);
        for message in [sent(b"a"), sent(&b"a"[..]), sent(vec![97]), sent([97]), sent(bytes.clone())] {
            assert_eq!(message, bytes);
        }
        assert_eq!((text.to_string(), bytes.to_string()), ("a".to_string(), "1 bytes".to_string()));
        assert_eq!((text.bytes(), bytes.text()), (&b"a"[..], None));
    }
}
