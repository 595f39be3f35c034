//! A row of the list of devices, and the words for the states of devices.

use std::cell::RefCell;
use std::time::Duration;

use adw::prelude::*;
use glib::subclass::prelude::ObjectSubclassIsExt;

use super::{Act, Presses, tr, tr_with};
use crate::near::{Device, PairingState, State};

/// A connection that is quicker than this shows no spinner.
const SPINNER_AFTER: Duration = Duration::from_millis(300);

#[derive(Default)]
pub struct Shown {
    id: RefCell<String>,
    spinner: RefCell<Option<glib::SourceId>>,
}

template!(imp::DeviceRow(gtk4::ListBoxRow) "device.ui" "NearDeviceRow", Shown, [
    said: gtk4::Label,
    avatar: adw::Avatar,
    name: gtk4::Label,
    words: gtk4::Label,
    spinner: gtk4::Spinner,
    lock: gtk4::Image,
    buttons: gtk4::Box,
    yes: gtk4::Button,
    no: gtk4::Button,
], @extends gtk4::ListBoxRow, gtk4::Widget, @implements gtk4::Actionable, gtk4::Buildable, gtk4::ConstraintTarget);
impl gtk4::subclass::list_box_row::ListBoxRowImpl for imp::DeviceRow {}

impl DeviceRow {
    /// `on_answer` is called with the device's id and the answer, when the buttons for a pairing are used.
    pub fn new(on_answer: Presses) -> DeviceRow {
        let row: DeviceRow = glib::Object::new();
        for (button, yes) in [(row.imp().yes.get(), true), (row.imp().no.get(), false)] {
            let (on_answer, weak) = (on_answer.clone(), row.downgrade());
            button.connect_clicked(move |_| {
                if let Some(row) = weak.upgrade() {
                    on_answer(&row.id(), yes);
                }
            });
        }
        row
    }

    pub fn id(&self) -> String {
        self.imp().state.id.borrow().clone()
    }

    pub fn set_id(&self, id: &str) {
        self.imp().state.id.replace(id.to_owned());
    }

    /// Returns whether it shows this already.
    pub fn says(&self, device: &Device) -> bool {
        self.imp().words.text() == words(device) && self.imp().name.text() == device.name
    }

    pub fn show(&self, device: &Device) {
        let parts = self.imp();
        parts.avatar.set_text(Some(&device.name));
        parts.name.set_text(&device.name);
        parts.words.set_text(&words(device));
        parts.said.set_text(&tr_with("{0}, {1}", &[&device.name, &words(device)]));
        parts.lock.set_visible(device.state == State::Secure);
        let answer = yes_answer(&device.state);
        parts.buttons.set_visible(answer.is_some());
        parts.yes.set_label(&answer.unwrap_or_default());
        self.spin(device.state == State::Connecting);
    }

    /// Marks the row as the one whose conversation is shown.
    pub fn set_chosen(&self, chosen: bool) {
        if chosen {
            self.set_state_flags(gtk4::StateFlags::SELECTED, false);
        } else {
            self.unset_state_flags(gtk4::StateFlags::SELECTED);
        }
    }

    fn spin(&self, on: bool) {
        let spinner = self.imp().spinner.get();
        let timer = &self.imp().state.spinner;
        if !on {
            if let Some(source) = timer.take() {
                source.remove();
            }
            spinner.set_visible(false);
            spinner.stop();
        } else if timer.borrow().is_none() && !spinner.is_visible() {
            let weak = self.downgrade();
            let source = glib::timeout_add_local_once(SPINNER_AFTER, move || {
                if let Some(row) = weak.upgrade() {
                    row.imp().state.spinner.take();
                    row.imp().spinner.set_visible(true);
                    row.imp().spinner.start();
                }
            });
            timer.replace(Some(source));
        }
    }
}

/// Says a state in words.
pub fn words(device: &Device) -> String {
    let name = device.name.as_str();
    match &device.state {
        State::Connecting => tr("Connecting…"),
        State::NotPaired => tr("Not paired"),
        State::Secure => tr("Secure"),
        State::Gone { next_try: Some(wait) } if !wait.is_zero() => {
            tr_with("Gone — next try in {0} s", &[&wait.as_millis().div_ceil(1000).to_string()])
        }
        State::Gone { .. } => tr("Gone — tries again"),
        State::Unreachable => tr("Seen, but cannot be reached: a firewall may be in between (port 1716)"),
        State::OtherKey => tr_with("This is not the “{0}” you paired with", &[name]),
        State::Pairing(pairing) => match pairing {
            PairingState::AskedByThem { seconds_left, .. } => {
                tr_with("“{0}” wants to pair ({1} s)", &[name, &seconds_left.to_string()])
            }
            PairingState::WaitingForThem { code: None } => tr_with("Waiting for “{0}” to answer…", &[name]),
            PairingState::WaitingForThem { code: Some(_) } => tr("Compare the codes"),
            PairingState::ShowCode { .. } => tr("Type the code on the other device"),
            PairingState::EnterCode { .. } => tr("The other device shows a code"),
            PairingState::Checking => tr("Checking the code…"),
        },
    }
}

/// Says the state, and since when a device is paired.
pub fn words_with_date(device: &Device) -> String {
    let Some(paired) = device.paired.as_ref().filter(|_| device.state == State::Secure) else {
        return words(device);
    };
    let this_year = glib::DateTime::now_local().is_ok_and(|now| now.year() == paired.date.year());
    let date = paired.date.format(if this_year { "%-d %B" } else { "%-d %B %Y" }).unwrap_or_default();
    match paired.strong {
        true => tr_with("Secure — paired on {0}", &[&date]),
        false => tr_with("Secure — paired on {0}, by comparing", &[&date]),
    }
}

/// The other side wants to pair, and waits for an answer of the person.
pub fn is_asked(device: &Device) -> bool {
    matches!(device.state, State::Pairing(PairingState::AskedByThem { .. }))
}

/// The button that agrees to a pairing which the other side wants.
pub fn yes_answer(state: &State) -> Option<String> {
    match state {
        State::Pairing(PairingState::AskedByThem { near: true, .. }) => Some(tr("Show Code")),
        State::Pairing(PairingState::AskedByThem { near: false, .. }) => Some(tr("Compare…")),
        _ => None,
    }
}

/// A device that cannot be talked to now, and may be later. The button's label, and what it asks for.
pub fn remedy(device: &Device) -> Option<(String, Act)> {
    let id = device.id.clone();
    match device.state {
        State::NotPaired => Some((tr("Pair…"), Act::Pair(id))),
        State::Gone { .. } | State::Unreachable => Some((tr("Try Again"), Act::TryAgain(id))),
        _ => None,
    }
}

pub fn icon(kind: &str) -> &'static str {
    match kind {
        "phone" => "phone-symbolic",
        "tablet" => "tablet-symbolic",
        "tv" => "tv-symbolic",
        _ => "computer-symbolic",
    }
}
