//! What the window is given to show: plain values, no network.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use near::near::{Device, Line, Network, OpenError, Paired, PairingState, State, Transfer, TransferState as Of, What};
use near::ui::{Act, Source};

pub struct Fake {
    pub network: Cell<Network>,
    pub devices: RefCell<Vec<Device>>,
    pub lines: RefCell<Vec<Line>>,
    pub acts: RefCell<Vec<Act>>,
    /// The answer to each act.
    pub refuses: RefCell<Option<String>>,
}

impl Source for Fake {
    fn own_name(&self) -> String {
        "desk".into()
    }
    fn network(&self) -> Network {
        self.network.get()
    }
    fn devices(&self) -> Vec<Device> {
        self.devices.borrow().clone()
    }
    /// The first device is the one that is talked to.
    fn lines(&self, id: &str) -> Vec<Line> {
        let first = self.devices.borrow().first().is_some_and(|device| device.id == id);
        if first { self.lines.borrow().clone() } else { Vec::new() }
    }
    fn act(&self, act: Act) -> Result<(), String> {
        self.acts.borrow_mut().push(act);
        self.refuses.borrow().clone().map_or(Ok(()), Err)
    }
}

pub struct Scene {
    pub name: &'static str,
    pub source: Rc<Fake>,
    /// The device that is shown, by its place in the list.
    pub chosen: Option<&'static str>,
    pub narrow: bool,
    /// An action of the window that opens a dialog.
    pub action: Option<&'static str>,
    pub taken: Option<OpenError>,
    /// Words that must be there to read.
    pub words: &'static [&'static str],
}

pub fn device(name: &str, kind: &str, state: State) -> Device {
    let paired = matches!(state, State::Secure | State::Gone { .. } | State::OtherKey);
    Device {
        id: name.to_lowercase().replace(' ', "_"),
        name: name.into(),
        kind: kind.into(),
        address: Some("192.168.1.20".into()),
        state,
        paired: paired.then(|| Paired {
            date: glib::DateTime::from_local(glib::DateTime::now_local().unwrap().year(), 5, 3, 12, 0, 0.0).unwrap(),
            strong: true,
        }),
    }
}

pub fn line(minute: i32, ours: bool, what: What) -> Line {
    Line { at: glib::DateTime::from_local(2026, 5, 3, 14, minute, 0.0).unwrap(), ours, what }
}

pub fn file(id: u64, name: &str, ours: bool, state: Of) -> What {
    let (size, done, speed) = (1_400_000_000, 612_000_000, 48_000_000);
    What::File(Transfer { id, name: name.into(), ours, size, done, speed, state })
}

fn talk() -> Vec<Line> {
    vec![
        line(2, false, What::Text("Do you have the pictures of Sunday?".into())),
        line(3, true, What::Text("All of them. 1.4 GB, one moment.".into())),
        line(3, true, file(1, "sunday.zip", true, Of::Running)),
        line(4, false, file(2, "notes.odt", false, Of::Received(PathBuf::from("/home/desk/Downloads/notes.odt")))),
    ]
}

fn other_lines() -> Vec<Line> {
    vec![
        line(5, false, What::Link("https://example.org/map".into())),
        line(6, false, What::Ping(String::new())),
        line(7, true, file(3, "film.mkv", true, Of::Waiting)),
        line(8, true, file(4, "book.pdf", true, Of::Stopped)),
        line(9, false, file(5, "disk.img", false, Of::Failed("the disk is full".into()))),
        line(10, true, file(6, "letter.odt", true, Of::Sent)),
        line(11, false, What::Text("long ".repeat(2000))),
    ]
}

fn scene(name: &'static str, devices: Vec<Device>, words: &'static [&'static str]) -> Scene {
    let source = Rc::new(Fake {
        network: Cell::new(Network { up: true, avahi: true }),
        devices: RefCell::new(devices),
        lines: RefCell::default(),
        acts: RefCell::default(),
        refuses: RefCell::default(),
    });
    Scene { name, source, chosen: None, narrow: false, action: None, taken: None, words }
}

impl Scene {
    fn chosen(mut self, id: &'static str) -> Scene {
        self.chosen = Some(id);
        self
    }
    fn lines(self, lines: Vec<Line>) -> Scene {
        self.source.lines.replace(lines);
        self
    }
    fn network(self, up: bool, avahi: bool) -> Scene {
        self.source.network.set(Network { up, avahi });
        self
    }
    fn narrow(mut self) -> Scene {
        self.narrow = true;
        self
    }
    fn action(mut self, action: &'static str) -> Scene {
        self.action = Some(action);
        self
    }
}

/// Three devices, of which one pairs.
pub fn pairing(state: PairingState) -> Vec<Device> {
    let mut devices = usual();
    devices[1].state = State::Pairing(state);
    devices
}

pub fn usual() -> Vec<Device> {
    vec![
        device("Study laptop", "laptop", State::Secure),
        device("Kitchen phone", "phone", State::NotPaired),
        device("Workshop", "desktop", State::Gone { next_try: Some(Duration::from_secs(12)) }),
    ]
}

pub fn asked() -> PairingState {
    PairingState::AskedByThem { seconds_left: 24, near: true, code: None }
}

pub fn asked_weakly() -> PairingState {
    PairingState::AskedByThem { seconds_left: 24, near: false, code: Some("8F3A09BC".into()) }
}

pub fn all() -> Vec<Scene> {
    let waits = || PairingState::WaitingForThem { code: None };
    let weak = || PairingState::WaitingForThem { code: Some("8F3A09BC".into()) };
    let mut states = usual();
    states.insert(1, device("Attic", "tablet", State::Gone { next_try: None }));
    states.push(device("Hall", "tv", State::Connecting));
    states.push(device("Neighbour", "phone", State::Unreachable));
    states.push(device("Guest", "laptop", State::Pairing(asked())));
    let mut changed = usual();
    changed[0].state = State::OtherKey;
    let mut taken = scene(
        "taken",
        Vec::new(),
        &[
            "Port 1716 Is Taken",
            "Another KDE Connect program is running on this computer (kdeconnectd). Only one program can have the port.",
            "Quit",
        ],
    );
    taken.taken = Some(OpenError::PortTaken { port: 1716, by: Some("kdeconnectd".into()) });
    let mut twice = scene(
        "twice",
        Vec::new(),
        &["Near Is Already Running", "Another Near has this data directory: /home/anna/near", "Quit"],
    );
    twice.taken = Some(OpenError::DataInUse("/home/anna/near".into()));
    vec![
        scene(
            "empty",
            Vec::new(),
            &[
                "Nobody Here Yet",
                "Open Near or KDE Connect on another device in this network.",
                "Connect to an Address…",
                "You are “desk”",
            ],
        ),
        scene("no-network", Vec::new(), &["No Network"]).network(false, true),
        scene("no-avahi", usual(), &["Avahi is not running. Devices are found by broadcast only."])
            .network(true, false),
        taken,
        twice,
        scene(
            "talk",
            usual(),
            &[
                "Secure — paired on 3 May",
                "Do you have the pictures of Sunday?",
                "Study laptop, 14:02",
                "You, 14:03",
                "612.0 MB of 1.4 GB — 48.0 MB/s — 16 s left",
                "Received — in Downloads",
            ],
        )
        .chosen("study_laptop")
        .lines(talk()),
        scene(
            "talk-more",
            usual(),
            &[
                "https://example.org/map",
                "Open Link",
                "Ping",
                "Waiting — 1.4 GB",
                "Stopped — nothing was kept",
                "Failed: the disk is full",
                "Try Again",
                "Sent — 1.4 GB",
                "Show All",
            ],
        )
        .chosen("study_laptop")
        .lines(other_lines()),
        scene(
            "states",
            states,
            &[
                "Connecting…",
                "Not paired",
                "“Guest” wants to pair (24 s)",
                "Show Code",
                "Reject",
                "Secure",
                "Gone — tries again",
                "Gone — next try in 12 s",
                "Seen, but cannot be reached: a firewall may be in between (port 1716)",
            ],
        )
        .chosen("neighbour"),
        scene("not-paired", usual(), &["Not paired. Messages and files need pairing once.", "Pair…"])
            .chosen("kitchen_phone"),
        scene("gone", usual(), &["Gone — next try in 12 s", "Try Again"]).chosen("workshop"),
        scene("asked", pairing(asked()), &["“Kitchen phone” wants to pair (24 s)", "Show Code", "Reject"])
            .chosen("kitchen_phone"),
        scene("waits", pairing(waits()), &["Waiting for “Kitchen phone” to answer…", "Cancel"]).chosen("kitchen_phone"),
        scene(
            "show-code",
            pairing(PairingState::ShowCode { digits: "482913".into() }),
            &["Code for “Kitchen phone”", "482 913"],
        )
        .chosen("kitchen_phone"),
        scene(
            "enter-code",
            pairing(PairingState::EnterCode { tries_left: 3, wrong: false }),
            &["Type the Code of “Kitchen phone”", "Its screen shows six digits now."],
        )
        .chosen("kitchen_phone"),
        scene(
            "wrong-code",
            pairing(PairingState::EnterCode { tries_left: 2, wrong: true }),
            &["That was not the code. The other device shows a new one. Tries left: 2"],
        )
        .chosen("kitchen_phone"),
        scene("checking", pairing(PairingState::Checking), &["Checking the code…"]).chosen("kitchen_phone"),
        scene(
            "compare",
            pairing(weak()),
            &[
                "Compare with the other screen. This check is weaker: do it in a network you trust.",
                "8F3A 09BC",
                "They Are the Same",
            ],
        )
        .chosen("kitchen_phone"),
        scene("asked-weakly", pairing(asked_weakly()), &["Compare…", "Reject"]).chosen("kitchen_phone"),
        scene("alarm", changed, &["This Is Not the “Study laptop” You Paired With", "Keep Apart", "Pair Anew…"]),
        scene("narrow-list", usual(), &["Study laptop", "Secure"]).narrow(),
        scene("narrow-talk", usual(), &["Secure", "612.0 MB of 1.4 GB — 48.0 MB/s — 16 s left"])
            .narrow()
            .chosen("study_laptop")
            .lines(talk()),
        scene("address", usual(), &["Connect to an Address", "Connect"]).action("win.address"),
        scene("rename", usual(), &["Rename This Device", "Rename"]).action("win.rename"),
        scene("forget", usual(), &["Forget “Study laptop”?"]).chosen("study_laptop").action("win.forget"),
        scene("shortcuts", usual(), &["Send the message", "Main menu"]).action("win.show-help-overlay"),
    ]
}
