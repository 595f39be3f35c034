//! How the window follows its source: what has changed is drawn, told in passing, or notified.

use std::time::{Duration, Instant};

use adw::prelude::*;
use glib::subclass::prelude::ObjectSubclassIsExt;

use super::row::{DeviceRow, is_asked};
use super::talk::take_files;
use super::{Act, Source, Window, tr, tr_with};
use crate::near::{Change, Device, State, TransferState, What};

/// Two hundred devices may announce themselves ten times a second: the window is drawn at most so often, and less often if
/// many rows change. Their texts have to be laid out anew, and nobody reads that many.
const DRAW_EVERY: Duration = Duration::from_millis(100);
const FOR_EACH_ROW: Duration = Duration::from_millis(10);
/// More rows than this would cost a frame: the others follow.
const ROWS_AT_ONCE: u32 = 12;
/// So much of a message is in a notification.
const NOTIFIED: usize = 200;

impl Window {
    /// Follows a change of the source.
    pub fn changed(&self, change: &Change) {
        match change {
            Change::Notice(text) => self.tell(text),
            Change::PairingEnded { device, result } => {
                let name = self.device(device).map_or_else(String::new, |device| device.name);
                match result {
                    Ok(true) => self.tell(&tr_with("Paired with “{0}”", &[&name])),
                    Ok(false) => self.tell(&tr_with("Paired with “{0}” by comparing", &[&name])),
                    Err(reason) => self.tell(&tr_with("Not paired with “{0}”: {1}", &[&name, reason])),
                }
            }
            Change::Line { device, index } => self.notify_line(device, *index),
            _ => {}
        }
        self.draw_soon();
    }

    /// Tells the person something in passing.
    pub fn tell(&self, text: &str) {
        self.imp().toasts.add_toast(adw::Toast::new(&glib::markup_escape_text(text)));
    }

    /// Draws at the next opportunity, together with what else changes until then.
    pub fn draw_soon(&self) {
        let state = &self.imp().state;
        if state.due.replace(true) {
            return;
        }
        let wait = state.next_draw.get().map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()));
        let weak = self.downgrade();
        glib::timeout_add_local_once(wait, move || {
            if let Some(window) = weak.upgrade() {
                window.draw();
            }
        });
    }

    pub(super) fn draw(&self) {
        let (parts, Some(source)) = (self.imp(), self.source()) else { return };
        parts.state.due.set(false);
        parts.state.devices.replace(source.devices());
        let devices = parts.state.devices.borrow().clone();
        parts.subtitle.set_text(&tr_with("You are “{0}”", &[&source.own_name()]));
        self.draw_list(&devices);
        self.draw_status(source.as_ref(), devices.is_empty());

        let chosen = self.chosen();
        let id = chosen.as_ref().map(|device| device.id.as_str());
        parts.state.rows.borrow().iter().for_each(|row| row.set_chosen(id == Some(&*row.id())));
        if chosen.is_none() && parts.state.chosen.take().is_some() {
            parts.leaflet.set_visible_child(&parts.side.get());
        }
        let lines = chosen.as_ref().map_or_else(Vec::new, |device| source.lines(&device.id));
        parts.talk.show(chosen.as_ref(), &lines);
        let secure = chosen.as_ref().is_some_and(|device| device.state == State::Secure);
        for name in ["files", "send", "paste"] {
            self.enable(name, secure);
        }
        self.enable("forget", chosen.is_some_and(|device| device.paired.is_some()));

        self.dialogs().draw(self, &devices);
        self.notify_asked(&devices);
        self.count_down(&devices);
    }

    fn enable(&self, name: &str, on: bool) {
        if let Some(action) = self.lookup_action(name).and_downcast::<gio::SimpleAction>() {
            action.set_enabled(on);
        }
    }

    fn draw_list(&self, devices: &[Device]) {
        let parts = self.imp();
        // Taken: the list sorts by them while rows are added.
        let rows = parts.state.rows.take();
        let before: Vec<String> = rows.iter().map(DeviceRow::id).collect();
        let stays = |row: &DeviceRow| devices.iter().any(|device| device.id == row.id());
        let (mut kept, mut spare): (Vec<_>, Vec<_>) = rows.into_iter().partition(stays);
        let (mut changed, mut later) = (0, false);
        for device in devices {
            let found = kept.iter().find(|row| row.id() == device.id).cloned();
            // Whoever is paired, or asks to be, does not wait behind a crowd.
            let is_stranger = device.paired.is_none() && !matches!(device.state, State::Pairing(_));
            if changed >= ROWS_AT_ONCE && is_stranger {
                later |= found.is_none_or(|row| !row.says(device));
                continue;
            }
            let row = found.unwrap_or_else(|| {
                // Filling a row costs less than making one.
                let row = spare.pop().unwrap_or_else(|| self.new_row());
                row.set_id(&device.id);
                kept.push(row.clone());
                row
            });
            changed += u32::from(!row.says(device));
            row.show(device);
        }
        parts.state.next_draw.set(Some(Instant::now() + DRAW_EVERY + FOR_EACH_ROW * changed));
        if later {
            self.draw_soon();
            kept.append(&mut spare);
        }
        spare.iter().for_each(|row| parts.list.remove(row));
        kept.sort_by_key(|row| devices.iter().position(|device| device.id == row.id()).unwrap_or(usize::MAX));
        parts.state.rows.replace(kept);
        if before.iter().ne(devices.iter().map(|device| &device.id)) {
            parts.list.invalidate_sort();
        }
    }

    fn new_row(&self) -> DeviceRow {
        let row = DeviceRow::new(self.presser());
        let (window, weak) = (self.downgrade(), row.downgrade());
        take_files(row.upcast_ref(), move |files| {
            if let (Some(window), Some(row)) = (window.upgrade(), weak.upgrade()) {
                window.choose(&row.id());
                window.act(Act::SendFiles(row.id(), files));
            }
        });
        self.imp().list.append(&row);
        row
    }

    fn draw_status(&self, source: &dyn Source, nobody: bool) {
        let (parts, network) = (self.imp(), source.network());
        parts.side_pages.set_visible_child_name(if nobody { "status" } else { "list" });
        let (icon, title, text) = if network.up {
            let text = tr("Open Near or KDE Connect on another device in this network.");
            ("system-users-symbolic", tr("Nobody Here Yet"), text)
        } else {
            ("network-offline-symbolic", tr("No Network"), tr("Near goes on by itself when there is one."))
        };
        parts.status.set_icon_name(Some(icon));
        parts.status.set_title(&title);
        parts.status.set_description(Some(&text));
        parts.status_button.set_visible(network.up);
        let note = match network.up {
            true => tr("Avahi is not running. Devices are found by broadcast only."),
            false => tr("No network. Devices come back by themselves."),
        };
        parts.note.set_text(&note);
        parts.note.set_visible(if network.up { !network.avahi } else { !nobody });
    }

    /// Draws each second while some words count seconds, and not otherwise: an idle window does not wake up.
    fn count_down(&self, devices: &[Device]) {
        let counts = |device: &Device| is_asked(device) || matches!(device.state, State::Gone { next_try: Some(_) });
        let state = &self.imp().state;
        if !devices.iter().any(counts) || state.counts.replace(true) {
            return;
        }
        let weak = self.downgrade();
        glib::timeout_add_seconds_local_once(1, move || {
            if let Some(window) = weak.upgrade() {
                window.imp().state.counts.set(false);
                window.draw_soon();
            }
        });
    }

    // ---- when the window is not in front ----

    /// Without a session bus there is nobody to tell, and GLib would complain.
    fn notifier(&self) -> Option<gtk4::Application> {
        self.application().filter(|application| application.dbus_connection().is_some())
    }

    fn notify(&self, key: &str, title: &str, text: &str, id: &str) {
        if let Some(application) = self.notifier().filter(|_| !self.is_active()) {
            let notification = gio::Notification::new(title);
            notification.set_body(Some(text).filter(|text| !text.is_empty()));
            notification.set_default_action_and_target_value("app.device", Some(&id.to_variant()));
            application.send_notification(Some(key), &notification);
        }
    }

    fn notify_asked(&self, devices: &[Device]) {
        let asking: Vec<&Device> = devices.iter().filter(|device| is_asked(device)).collect();
        let before = self.imp().state.asked.replace(asking.iter().map(|device| device.id.clone()).collect());
        for device in asking.iter().filter(|device| !before.contains(&device.id)) {
            let title = tr_with("“{0}” wants to pair", &[&device.name]);
            self.notify(&format!("pair-{}", device.id), &title, &tr("Answer in the window of Near."), &device.id);
        }
        for id in before.iter().filter(|&id| !asking.iter().any(|device| device.id == *id)) {
            if let Some(application) = self.notifier() {
                application.withdraw_notification(&format!("pair-{id}"));
            }
        }
    }

    fn notify_line(&self, id: &str, index: usize) {
        let Some(source) = self.source() else { return };
        let Some(device) = source.devices().into_iter().find(|device| device.id == id) else { return };
        let lines = source.lines(id);
        let Some(line) = lines.get(index).filter(|line| !line.ours) else { return };
        let text: String = match &line.what {
            What::Text(text) | What::Link(text) => text.chars().take(NOTIFIED).collect(),
            What::Ping(text) => tr_with("Ping {0}", &[text]),
            What::File(transfer) if matches!(transfer.state, TransferState::Received(_)) => {
                tr_with("Received “{0}”", &[&transfer.name])
            }
            What::File(transfer) => tr_with("Sends “{0}”", &[&transfer.name]),
        };
        self.notify(&format!("line-{id}"), &device.name, &text, id);
        // A conversation that is not open does not show it.
        if self.is_active() && self.imp().state.chosen.borrow().as_deref() != Some(id) {
            self.tell(&tr_with("{0}: {1}", &[&device.name, &text]));
        }
    }
}
