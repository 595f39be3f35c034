//! The face of the core: the state of all devices in one place, and what can be done with them.
//!
//! Whoever draws a window needs this file alone. Nothing here names a socket or a packet.

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::core::Core;

/// What [`Near::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory for the identity and the paired devices.
    pub data: PathBuf,
    /// The name of this device. `None`: the one of the last time, or the host's.
    pub name: Option<String>,
    /// The port for UDP and TCP: 1716, unless all devices agree on another.
    pub port: u16,
    /// The directory for received files.
    pub downloads: PathBuf,
}

/// Programs that speak the protocol, as their processes are called.
const SPEAKERS: [&str; 4] = ["GSConnect", "kdeconnectd", "near", "valent"];

/// Why there is no [`Near`].
#[derive(Debug)]
pub enum OpenError {
    /// Another program has the port. `by` is its name, if it is a program of this user's.
    PortTaken {
        port: u16,
        by: Option<String>,
    },
    /// Another Near has this data directory.
    DataInUse(PathBuf),
    Other(network::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::PortTaken { port, by: None } => write!(out, "Another program has port {port}"),
            OpenError::PortTaken { by: Some(name), .. } if SPEAKERS.contains(&name.as_str()) => {
                write!(out, "Another KDE Connect program is running on this computer ({name})")
            }
            OpenError::PortTaken { port, by: Some(name) } => {
                write!(out, "Another program has port {port} ({name})")
            }
            OpenError::DataInUse(directory) => {
                write!(out, "Another Near has this data directory: {}", directory.display())
            }
            OpenError::Other(error) => error.fmt(out),
        }
    }
}

impl From<String> for OpenError {
    fn from(problem: String) -> OpenError {
        OpenError::Other(network::Error::Other(problem.into()))
    }
}

/// A device as it is now.
#[derive(Clone, Debug)]
pub struct Device {
    pub id: String,
    /// As the device says. Already cleaned of what could deceive.
    pub name: String,
    /// `desktop`, `laptop`, `phone`, `tablet`, `tv`, or anything else.
    pub kind: String,
    pub address: Option<String>,
    pub state: State,
    pub paired: Option<Paired>,
}

/// When and how a device was paired.
#[derive(Clone, Debug)]
pub struct Paired {
    pub date: glib::DateTime,
    /// By a typed code, not by comparing.
    pub strong: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Connecting,
    NotPaired,
    Pairing(PairingState),
    /// Paired, and there is a link.
    Secure,
    Gone {
        next_try: Option<Duration>,
    },
    Unreachable,
    /// It shows another key than the one that was paired. Nothing was sent to it.
    OtherKey,
}

/// The weak way has a `code` of eight characters to compare. There, *both* sides must call [`Near::answer`]: the one that
/// asked as well, since the other side's consent may be that of somebody in the middle.
#[derive(Clone, Debug, PartialEq)]
pub enum PairingState {
    /// `near`: the strong way, whose answer shows a code. Otherwise `code` is to be compared.
    AskedByThem { seconds_left: u32, near: bool, code: Option<String> },
    /// With a `code`, it is to be compared and answered; `None` in the strong way, and when it was answered.
    WaitingForThem { code: Option<String> },
    /// Six digits to type on the other device.
    ShowCode { digits: String },
    /// The other device shows six digits.
    EnterCode { tries_left: u8, wrong: bool },
    /// The digits are on their way.
    Checking,
}

/// A line of a conversation.
#[derive(Clone, Debug)]
pub struct Line {
    pub at: glib::DateTime,
    pub ours: bool,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Text(String),
    Link(String),
    Ping(String),
    File(Transfer),
}

/// A file that comes or goes.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub id: u64,
    pub name: String,
    pub ours: bool,
    /// Bytes.
    pub size: u64,
    pub done: u64,
    /// Bytes per second.
    pub speed: u64,
    pub state: TransferState,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TransferState {
    Waiting,
    Running,
    /// The file is here, whole.
    Received(PathBuf),
    Sent,
    Stopped,
    /// Nothing of it was kept.
    Failed(String),
}

/// The network around this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// There is an address other than the loopback's.
    pub up: bool,
    /// The Avahi daemon is there.
    pub avahi: bool,
}

/// What has changed. Read the new state from [`Near`].
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The list of devices.
    Devices,
    /// The state of one device.
    Device(String),
    /// A new line in the conversation with this device.
    Line {
        device: String,
        index: usize,
    },
    Transfer(u64),
    Network,
    /// Something to tell the person in passing.
    Notice(String),
    /// A pairing is over: done, strong or not, or why not.
    PairingEnded {
        device: String,
        result: Result<bool, String>,
    },
}

/// This device among the others. Cloning is cheap.
#[derive(Clone)]
pub struct Near {
    core: Rc<Core>,
}

impl Near {
    /// Listens, and announces this device.
    pub fn open(options: Options) -> Result<Near, OpenError> {
        Ok(Near { core: Core::open(options)? })
    }

    /// Calls `observer` for each change, from the main loop, never inside a method call.
    pub fn connect_change(&self, observer: impl Fn(&Change) + 'static) {
        self.core.observe(Rc::new(observer));
    }

    pub fn own_name(&self) -> String {
        self.core.own_name()
    }

    pub fn rename(&self, name: &str) -> Result<(), String> {
        self.core.rename(name)
    }

    /// Returns all devices: paired ones first, each group by name.
    pub fn devices(&self) -> Vec<Device> {
        self.core.devices()
    }

    pub fn device(&self, id: &str) -> Option<Device> {
        self.core.device(id)
    }

    pub fn network(&self) -> Network {
        self.core.network()
    }

    /// Announces this device everywhere once more.
    pub fn search_again(&self) {
        self.core.search_again();
    }

    /// Announces this device to a host name or an address, and remembers it. Returns what is wrong with the text.
    pub fn connect_to(&self, address: &str) -> Result<(), String> {
        self.core.connect_to(address)
    }

    pub fn try_again(&self, id: &str) {
        self.core.try_again(id);
    }

    /// Asks the device to pair.
    pub fn pair(&self, id: &str) {
        self.core.pair(id);
    }

    /// Answers: "Show Code" or "Reject"; in the weak way "They Are the Same" or "Cancel".
    pub fn answer(&self, id: &str, yes: bool) {
        self.core.answer(id, yes);
    }

    /// Passes on the six digits that the other device shows. Spaces do not matter.
    pub fn enter_code(&self, id: &str, digits: &str) {
        self.core.enter_code(id, digits);
    }

    pub fn cancel_pairing(&self, id: &str) {
        self.core.cancel_pairing(id);
    }

    /// Unpairs the device.
    pub fn forget(&self, id: &str) {
        self.core.forget(id);
    }

    /// Dismisses the alarm about another key. The device is heard no more until [`try_again`](Near::try_again) or the next start.
    pub fn keep_apart(&self, id: &str) {
        self.core.keep_apart(id);
    }

    /// Returns the conversation of this run.
    pub fn lines(&self, id: &str) -> Vec<Line> {
        self.core.lines(id)
    }

    /// Sends a text, or a link if it is one. It is refused while there is no link to the device.
    pub fn send_text(&self, id: &str, text: &str) -> Result<(), String> {
        self.core.send_text(id, text)
    }

    pub fn send_files(&self, id: &str, files: &[PathBuf]) -> Result<(), String> {
        self.core.send_files(id, files)
    }

    /// Stops a transfer. Nothing of it is kept.
    pub fn stop(&self, transfer: u64) {
        self.core.stop(transfer);
    }

    /// Starts a transfer of ours again that has failed or was stopped.
    pub fn again(&self, transfer: u64) {
        self.core.again(transfer);
    }
}
