//! The packets, as values. Everything from outside is checked here: sizes, characters, types. Nothing here talks.

use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// The version of the protocol that is spoken if the other side does so too, and the oldest one that is accepted.
pub const VERSION: u64 = 8;
pub const OLDEST: u64 = 7;

/// The longest identity, in bytes, and the longest line of a link, before pairing and after.
pub const IDENTITY_LIMIT: usize = 8192;
pub const LINE_LIMIT: usize = 64 << 10;
pub const PAIRED_LINE_LIMIT: usize = 1 << 20;

/// Where devices listen.
pub const PORTS: RangeInclusive<u16> = 1716..=1764;

const PING: &str = "kdeconnect.ping";
const SHARE: &str = "kdeconnect.share.request";

/// Who somebody says to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub id: String,
    pub name: String,
    pub kind: String,
    pub version: u64,
    /// Where it listens. Only in datagrams.
    pub port: Option<u16>,
    /// It says that it knows the strong way of pairing.
    pub near: bool,
    /// Whom it believes to talk to, in version 8.
    pub target: Option<(String, u64)>,
}

/// A file that the other side offers.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    pub name: String,
    pub size: u64,
    /// `None`: it is empty, and nothing has to be fetched.
    pub port: Option<u16>,
    /// How many are sent together, and their bytes. Others show their progress by it.
    pub batch: (u64, u64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub pair: bool,
    pub timestamp: Option<u64>,
    pub near: Option<Step>,
}

/// The steps of the strong way, in the member `near`.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Begin,
    Show,
    A(Vec<u8>),
    B(Vec<u8>),
    Ca(Vec<u8>),
    Cb(Vec<u8>),
    Wrong(u8),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    Identity(Identity),
    Pair(Pair),
    Text(String),
    Link(String),
    File(File),
    Ping(String),
    /// One that is not for this program.
    Other,
}

impl Packet {
    /// Reads a line. Says what is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Packet, &'static str> {
        let all: Value = serde_json::from_slice(line).map_err(|_| "not JSON")?;
        let id = &all["id"];
        // Some send it as text.
        if !id.is_number() && id.as_str().is_none_or(|id| id.parse::<u64>().is_err()) {
            return Err("no id");
        }
        let body = all["body"].as_object().ok_or("no body")?;
        match all["type"].as_str().ok_or("no type")? {
            "kdeconnect.identity" => Identity::parse(body).map(Packet::Identity),
            "kdeconnect.pair" => Pair::parse(body).map(Packet::Pair),
            PING => Ok(Packet::Ping(text(body, "message").unwrap_or_default().into())),
            SHARE => match (text(body, "filename"), text(body, "text"), text(body, "url")) {
                (Some(name), ..) => {
                    // An empty file needs no payload. An unknown length is -1 for some, and is not taken.
                    let size = &all["payloadSize"];
                    let size = if size.is_null() { Some(0) } else { size.as_u64() }.ok_or("a file of unknown size")?;
                    let port = all["payloadTransferInfo"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
                    let port = port.filter(|port| *port >= 1024);
                    if port.is_none() && size > 0 {
                        return Err("a file without a port");
                    }
                    let number = |key, default| body.get(key).and_then(Value::as_u64).unwrap_or(default);
                    let batch = (number("numberOfFiles", 1), number("totalPayloadSize", size));
                    Ok(Packet::File(File { name: file_name(name), size, port, batch }))
                }
                (_, Some(text), _) => Ok(Packet::Text(text.into())),
                (_, _, Some(link)) => Ok(Packet::Link(link.into())),
                _ => Err("nothing is shared"),
            },
            _ => Ok(Packet::Other),
        }
    }

    /// Writes the line, without its end.
    pub fn to_line(&self) -> String {
        let packet = |kind: &str, body: Value| json!({ "id": now_ms(), "type": kind, "body": body });
        let all = match self {
            Packet::Identity(identity) => packet("kdeconnect.identity", identity.to_body()),
            Packet::Pair(pair) => packet("kdeconnect.pair", pair.to_body()),
            Packet::Ping(message) => packet(PING, json!({ "message": message })),
            Packet::Text(text) => packet(SHARE, json!({ "text": text })),
            Packet::Link(link) => packet(SHARE, json!({ "url": link })),
            Packet::File(File { name, size, port, batch: (files, total) }) => {
                let body = json!({
                    "filename": name, "lastModified": now_ms(), "numberOfFiles": files, "totalPayloadSize": total, "open": false
                });
                let mut all = packet(SHARE, body);
                if let Some(port) = port {
                    all["payloadSize"] = json!(size);
                    all["payloadTransferInfo"] = json!({ "port": port });
                }
                all
            }
            Packet::Other => packet("kdeconnect.other", json!({})),
        };
        all.to_string()
    }
}

impl Identity {
    fn parse(body: &Map<String, Value>) -> Result<Identity, &'static str> {
        let id = text(body, "deviceId").filter(|id| is_id(id)).ok_or("a bad deviceId")?;
        let version = body.get("protocolVersion").and_then(Value::as_u64).filter(|version| *version >= OLDEST);
        let name = device_name(text(body, "deviceName").unwrap_or_default());
        let port = match body.get("tcpPort").and_then(Value::as_u64).map(u16::try_from) {
            Some(Ok(port)) if PORTS.contains(&port) => Some(port),
            Some(_) => return Err("a tcpPort outside of 1716 to 1764"),
            None => None,
        };
        let target = text(body, "targetDeviceId").filter(|id| is_id(id));
        let target_version = body.get("targetProtocolVersion").and_then(Value::as_u64);
        Ok(Identity {
            id: id.into(),
            name: if name.is_empty() { "?".into() } else { name },
            kind: device_name(text(body, "deviceType").unwrap_or("desktop")),
            version: version.ok_or("too old a protocolVersion")?,
            port,
            near: body.get("near").and_then(Value::as_u64) == Some(1),
            target: target.map(Into::into).zip(target_version),
        })
    }

    fn to_body(&self) -> Value {
        let mut body = json!({
            "deviceId": self.id, "deviceName": self.name, "deviceType": self.kind, "protocolVersion": self.version,
            "incomingCapabilities": [PING, SHARE], "outgoingCapabilities": [PING, SHARE],
        });
        if self.near {
            body["near"] = json!(1);
        }
        if let Some(port) = self.port {
            body["tcpPort"] = json!(port);
        }
        if let Some((id, version)) = &self.target {
            body["targetDeviceId"] = json!(id);
            body["targetProtocolVersion"] = json!(version);
        }
        body
    }
}

impl Pair {
    /// It also ends a pairing.
    pub const REFUSAL: Pair = Pair { pair: false, timestamp: None, near: None };

    fn parse(body: &Map<String, Value>) -> Result<Pair, &'static str> {
        let pair = body.get("pair").and_then(Value::as_bool);
        let near = match body.get("near") {
            // Whoever refuses takes no step.
            Some(near) if pair != Some(false) => Some(Step::parse(near).ok_or("an unknown step of pairing")?),
            _ => None,
        };
        if pair.is_none() && near.is_none() {
            return Err("neither true nor false");
        }
        // A step in between says neither: it is no consent.
        Ok(Pair { pair: pair.unwrap_or(true), timestamp: body.get("timestamp").and_then(Value::as_u64), near })
    }

    fn to_body(&self) -> Value {
        let mut body = match &self.near {
            None | Some(Step::Begin) => json!({ "pair": self.pair }),
            Some(_) => json!({}),
        };
        if let Some(timestamp) = self.timestamp {
            body["timestamp"] = json!(timestamp);
        }
        if let Some(step) = &self.near {
            body["near"] = step.to_value();
        }
        body
    }
}

impl Step {
    fn parse(near: &Value) -> Option<Step> {
        let (key, value) = near.as_object()?.iter().next()?;
        // GLib panics at NUL.
        let is_base64 = |text: &&str| {
            text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
        };
        let bytes = || value.as_str().filter(is_base64).map(glib::base64_decode);
        match key.as_str() {
            "v" => (value.as_u64() == Some(1)).then_some(Step::Begin),
            "show" => (value.as_bool() == Some(true)).then_some(Step::Show),
            "a" => bytes().map(Step::A),
            "b" => bytes().map(Step::B),
            "ca" => bytes().map(Step::Ca),
            "cb" => bytes().map(Step::Cb),
            "wrong" => value.as_u64().and_then(|left| u8::try_from(left).ok()).map(Step::Wrong),
            _ => None,
        }
    }

    fn to_value(&self) -> Value {
        let bytes = |key: &str, bytes: &[u8]| json!({ key: glib::base64_encode(bytes).as_str() });
        match self {
            Step::Begin => json!({ "v": 1 }),
            Step::Show => json!({ "show": true }),
            Step::A(message) => bytes("a", message),
            Step::B(message) => bytes("b", message),
            Step::Ca(tag) => bytes("ca", tag),
            Step::Cb(tag) => bytes("cb", tag),
            Step::Wrong(left) => json!({ "wrong": left }),
        }
    }
}

fn text<'a>(body: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    body.get(key).and_then(Value::as_str)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub fn is_id(id: &str) -> bool {
    (32..=38).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// A character that can make text look like another text.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

/// Makes a name for a device: at most 32 characters, and none that others refuse or that deceives.
pub fn device_name(name: &str) -> String {
    let kept = |c: &char| !"\"',;:.!?()[]<>".contains(*c) && !deceives(*c);
    name.chars().filter(kept).take(32).collect::<String>().trim().into()
}

/// Makes a name for a file: one component of a path, visible, at most 200 bytes, with its extension.
pub fn file_name(name: &str) -> String {
    let mut clean: String = name.chars().map(|c| if c == '/' || deceives(c) { '_' } else { c }).collect();
    if clean.starts_with('.') {
        clean.replace_range(..1, "_");
    }
    if clean.is_empty() {
        clean = "file".into();
    }
    if clean.len() <= 200 {
        return clean;
    }
    let extension = clean.rfind('.').map_or("", |dot| &clean[dot..]);
    let extension = if extension.len() <= 20 { extension.to_owned() } else { String::new() };
    let mut end = 200 - extension.len();
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{extension}", &clean[..end])
}
