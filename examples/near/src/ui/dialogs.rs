//! Questions in windows of their own: pairing, the alarm, an address, a name.

use std::cell::RefCell;
use std::time::Duration;

use adw::prelude::*;

use super::row::is_asked;
use super::{Act, Window, fill, tr, tr_with};
use crate::near::{Device, PairingState, State};

const TEMPLATE: &str = include_str!("dialogs.ui");

/// A dialog that must not be agreed to in passing is there for so long before it can be.
const AGREE_AFTER: Duration = Duration::from_millis(500);

/// The dialogs that come and go with the states of devices.
#[derive(Default)]
pub struct Dialogs {
    pairing: RefCell<Option<Pairing>>,
    /// The device whose code is to be compared, as the person said.
    compares: RefCell<String>,
    /// The devices whose alarm was given.
    alarmed: RefCell<Vec<String>>,
}

struct Pairing {
    wanted: Wanted,
    /// `None` once it was answered: it does not come again by itself.
    dialog: Option<adw::MessageDialog>,
}

#[derive(PartialEq)]
struct Wanted {
    id: String,
    name: String,
    dialog: &'static str,
    code: String,
    /// Of the code, after a wrong one.
    tries_left: Option<u8>,
}

impl Wanted {
    fn of(device: &Device, compares: &str) -> Option<Wanted> {
        let State::Pairing(pairing) = &device.state else { return None };
        let (dialog, code, tries_left) = match pairing {
            PairingState::ShowCode { digits } => ("show", in_groups(digits), None),
            PairingState::EnterCode { tries_left, wrong } => ("enter", String::new(), wrong.then_some(*tries_left)),
            PairingState::WaitingForThem { code: Some(code) } => ("compare", in_groups(code), None),
            PairingState::AskedByThem { near: false, code: Some(code), .. } if device.id == compares => {
                ("compare", in_groups(code), None)
            }
            _ => return None,
        };
        Some(Wanted { id: device.id.clone(), name: device.name.clone(), dialog, code, tries_left })
    }

    fn open(&self, window: &Window) -> adw::MessageDialog {
        let (id, kind, weak) = (self.id.clone(), self.dialog, window.downgrade());
        let (builder, dialog) = open(window, self.dialog, &[&self.name], move |yes, text| {
            let Some(window) = weak.upgrade() else { return };
            window.dialogs().answered();
            window.act(match (kind, yes) {
                ("compare", yes) => Act::Answer(id.clone(), yes),
                ("enter", true) => Act::EnterCode(id.clone(), text),
                _ => Act::CancelPairing(id.clone()),
            });
        });
        if let Some(label) = builder.object::<gtk4::Label>(format!("{kind}_code")) {
            label.set_text(&self.code);
        }
        if let Some(entry) = builder.object::<gtk4::Entry>("enter_entry") {
            let weak = dialog.downgrade();
            entry.connect_changed(move |entry| {
                if let Some(dialog) = weak.upgrade() {
                    let digits = entry.text().chars().filter(char::is_ascii_digit).count();
                    dialog.set_response_enabled("go", digits == 6);
                }
            });
        }
        if let Some(tries) = self.tries_left {
            let tries = tries.to_string();
            let text = tr_with("That was not the code. The other device shows a new one. Tries left: {0}", &[&tries]);
            dialog.set_body(&text);
        }
        dialog
    }
}

impl Dialogs {
    /// Opens and closes what the states of the devices want.
    pub fn draw(&self, window: &Window, devices: &[Device]) {
        let wanted = devices.iter().find_map(|device| Wanted::of(device, &self.compares.borrow()));
        if self.pairing.borrow().as_ref().map(|shown| &shown.wanted) != wanted.as_ref() {
            if let Some(dialog) = self.pairing.take().and_then(|shown| shown.dialog) {
                dialog.destroy();
            }
            let shown = wanted.map(|wanted| Pairing { dialog: Some(wanted.open(window)), wanted });
            self.pairing.replace(shown);
        }
        if !devices.iter().any(|device| device.id == *self.compares.borrow() && is_asked(device)) {
            self.compares.borrow_mut().clear();
        }

        let other_keys = devices.iter().filter(|device| device.state == State::OtherKey);
        let alarmed = self.alarmed.replace(other_keys.clone().map(|device| device.id.clone()).collect());
        for device in other_keys.filter(|device| !alarmed.contains(&device.id)) {
            alarm(window, device);
        }
    }

    /// The person wants to compare the code of a device that asks to pair.
    pub fn compare(&self, id: &str) {
        self.compares.replace(id.to_owned());
    }

    fn answered(&self) {
        if let Some(shown) = self.pairing.borrow_mut().as_mut() {
            shown.dialog = None;
        }
    }
}

/// Digits and characters are read out in two groups.
fn in_groups(code: &str) -> String {
    let half = code.len() / 2;
    match (code.get(..half), code.get(half..)) {
        (Some(left), Some(right)) => format!("{left} {right}"),
        _ => code.to_owned(),
    }
}

pub fn alarm(window: &Window, device: &Device) {
    let date = device.paired.as_ref().and_then(|paired| paired.date.format("%-d %B %Y").ok());
    let date = date.map_or_else(|| tr("the day of pairing"), Into::into);
    let (id, weak) = (device.id.clone(), window.downgrade());
    open(window, "alarm", &[&device.name, &date], move |anew, _| {
        let Some(window) = weak.upgrade() else { return };
        if !anew {
            window.act(Act::KeepApart(id.clone()));
        } else if window.act(Act::Forget(id.clone())) {
            window.act(Act::Pair(id.clone()));
        }
    });
}

pub fn address(window: &Window) {
    let weak = window.downgrade();
    open(window, "address", &[], move |yes, text| {
        if let Some(window) = weak.upgrade().filter(|_| yes) {
            window.act(Act::ConnectTo(text.trim().to_owned()));
        }
    });
}

pub fn rename(window: &Window, name: &str) {
    let weak = window.downgrade();
    let (builder, _) = open(window, "rename", &[], move |yes, text| {
        if let Some(window) = weak.upgrade().filter(|_| yes) {
            window.act(Act::Rename(text.trim().to_owned()));
        }
    });
    if let Some(entry) = builder.object::<gtk4::Entry>("rename_entry") {
        entry.set_text(name);
    }
}

pub fn forget(window: &Window, device: &Device) {
    let (id, weak) = (device.id.clone(), window.downgrade());
    open(window, "forget", &[&device.name], move |yes, _| {
        if let Some(window) = weak.upgrade().filter(|_| yes) {
            window.act(Act::Forget(id.clone()));
        }
    });
}

pub fn shortcuts() -> Option<gtk4::ShortcutsWindow> {
    load("shortcuts").object("shortcuts")
}

fn load(name: &str) -> gtk4::Builder {
    let builder = gtk4::Builder::new();
    builder.set_translation_domain(Some("near"));
    if let Err(error) = builder.add_objects_from_string(TEMPLATE, &[name]) {
        glib::g_critical!("near", "dialogs.ui, {name}: {error}");
    }
    builder
}

/// Opens a dialog with `values` in its texts. `done` is called with whether it was agreed to, and the text of its entry.
fn open(
    window: &Window,
    name: &str,
    values: &[&str],
    done: impl Fn(bool, String) + 'static,
) -> (gtk4::Builder, adw::MessageDialog) {
    let builder = load(name);
    let dialog: adw::MessageDialog = builder.object(name).unwrap_or_default();
    dialog.set_heading(Some(&fill(&dialog.heading().unwrap_or_default(), values)));
    dialog.set_body(&fill(&dialog.body(), values));
    let entry = builder.object::<gtk4::Entry>(format!("{name}_entry"));
    dialog.connect_response(None, move |_, response| {
        let text = entry.as_ref().map(|entry| entry.text().to_string());
        done(response == "go", text.unwrap_or_default());
    });
    if dialog.default_response().as_deref() == Some("cancel") {
        // Agreeing is not for somebody who was just typing; and the first button of a narrow dialog, which agrees, must not
        // get the focus.
        dialog.set_response_enabled("go", false);
        let weak = dialog.downgrade();
        glib::timeout_add_local_once(AGREE_AFTER, move || {
            if let Some(dialog) = weak.upgrade() {
                dialog.set_response_enabled("go", true);
            }
        });
    }
    dialog.set_transient_for(Some(window));
    dialog.present();
    (builder, dialog)
}
