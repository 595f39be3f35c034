//! The right half of the window: the conversation with one device, or what keeps it from being one.

use std::cell::{Cell, OnceCell, RefCell};
use std::path::PathBuf;

use adw::prelude::*;
use glib::subclass::prelude::ObjectSubclassIsExt;
use gtk4::gdk;

use super::line::LineRow;
use super::row::{icon, remedy, words, words_with_date, yes_answer};
use super::{Acts, Presses, tr, tr_with};
use crate::near::{Device, Line, State};

#[derive(Default)]
pub struct Shown {
    act: OnceCell<Acts>,
    id: RefCell<String>,
    rows: RefCell<Vec<LineRow>>,
    /// The reader is not at the newest line.
    reads_above: Cell<bool>,
}

template!(imp::Talk(gtk4::Box) "talk.ui" "NearTalk", Shown, [
    header: adw::HeaderBar,
    title: gtk4::Label,
    subtitle: gtk4::Label,
    back: gtk4::Button,
    menu: gtk4::MenuButton,
    pages: gtk4::Stack,
    status: adw::StatusPage,
    yes: gtk4::Button,
    no: gtk4::Button,
    scroll: gtk4::ScrolledWindow,
    lines: gtk4::ListBox,
    bar: gtk4::Box,
    bar_words: gtk4::Label,
    bar_button: gtk4::Button,
    compose: gtk4::Box,
    attach: gtk4::Button,
    entry: gtk4::Entry,
    send: gtk4::Button,
], @extends gtk4::Box, gtk4::Widget, @implements gtk4::Buildable, gtk4::ConstraintTarget, gtk4::Orientable);
impl gtk4::subclass::box_::BoxImpl for imp::Talk {}

impl Talk {
    /// `press` is called for the buttons that agree (or help) and refuse, `drop` with files that are dropped.
    pub fn connect(&self, act: Acts, press: Presses, drop: impl Fn(Vec<PathBuf>) + 'static) {
        let parts = self.imp();
        let _ = parts.state.act.set(act);
        for (button, yes) in [(&parts.yes, true), (&parts.no, false), (&parts.bar_button, true)] {
            let (press, weak) = (press.clone(), self.downgrade());
            button.connect_clicked(move |_| {
                if let Some(talk) = weak.upgrade() {
                    let id = talk.imp().state.id.borrow().clone();
                    press(&id, yes);
                }
            });
        }
        parts.entry.connect_activate(|entry| drop_result(entry.activate_action("win.send", None)));
        take_files(self.upcast_ref(), drop);

        let adjustment = parts.scroll.vadjustment();
        let weak = self.downgrade();
        adjustment.connect_value_changed(move |at| {
            if let Some(talk) = weak.upgrade() {
                talk.imp().state.reads_above.set(at.value() + at.page_size() < at.upper() - 1.0);
            }
        });
        let weak = self.downgrade();
        adjustment.connect_changed(move |at| {
            if weak.upgrade().is_some_and(|talk| !talk.imp().state.reads_above.get()) {
                at.set_value(at.upper());
            }
        });
    }

    pub fn entry(&self) -> gtk4::Entry {
        self.imp().entry.get()
    }

    /// In the narrow layout there is a way back, and the buttons of the window are on both halves.
    pub fn set_folded(&self, folded: bool) {
        self.imp().back.set_visible(folded);
        self.imp().header.set_show_start_title_buttons(folded);
    }

    pub fn show(&self, device: Option<&Device>, lines: &[Line]) {
        let parts = self.imp();
        parts.menu.set_visible(device.is_some());
        parts.compose.set_visible(device.is_some());
        let Some(device) = device else {
            self.clear("");
            parts.title.set_text("Near");
            parts.subtitle.set_visible(false);
            parts.bar.set_visible(false);
            return self.show_status(
                "user-available-symbolic",
                &tr("Choose Somebody"),
                &tr("Or drop a file on a name to send it."),
                (None, None),
            );
        };
        parts.title.set_text(&device.name);
        // Other states are said below, where there is room.
        let secure = (device.state == State::Secure).then(|| match parts.back.is_visible() {
            true => words(device),
            false => words_with_date(device),
        });
        parts.subtitle.set_visible(secure.is_some());
        parts.subtitle.set_text(&secure.unwrap_or_default());
        self.show_compose(device);
        if *parts.state.id.borrow() != device.id {
            self.clear(&device.id);
        }
        self.show_lines(device, lines);

        let words = words(device);
        let button = remedy(device).map(|(label, _)| label);
        if device.paired.is_some() && !matches!(device.state, State::OtherKey | State::Pairing(_)) {
            parts.pages.set_visible_child_name("lines");
            parts.bar.set_visible(device.state != State::Secure);
            parts.bar_words.set_text(&words);
            parts.bar_button.set_visible(button.is_some());
            return;
        }
        parts.bar.set_visible(false);
        let (yes, no, more) = match &device.state {
            State::NotPaired => (button, None, tr("Messages and files need pairing once.")),
            State::OtherKey => (Some(tr("Decide…")), None, tr("Nothing was sent.")),
            State::Pairing(_) => match yes_answer(&device.state) {
                Some(yes) => (Some(yes), Some(tr("Reject")), String::new()),
                None => (None, Some(tr("Cancel")), String::new()),
            },
            _ => (button, None, String::new()),
        };
        let text = if more.is_empty() { words } else { format!("{words}. {more}") };
        self.show_status(icon(&device.kind), &device.name, &text, (yes, no));
    }

    fn show_status(&self, icon: &str, title: &str, text: &str, buttons: (Option<String>, Option<String>)) {
        let parts = self.imp();
        parts.pages.set_visible_child_name("status");
        parts.status.set_icon_name(Some(icon));
        parts.status.set_title(&glib::markup_escape_text(title));
        parts.status.set_description(Some(&glib::markup_escape_text(text)));
        for (button, label) in [(&parts.yes, buttons.0), (&parts.no, buttons.1)] {
            button.set_visible(label.is_some());
            button.set_label(&label.unwrap_or_default());
        }
    }

    fn show_compose(&self, device: &Device) {
        let (parts, name) = (self.imp(), [device.name.as_str()]);
        // What is being written stays when the link is lost; it is refused only when it is to be sent.
        parts.entry.set_sensitive(device.paired.is_some() && device.state != State::OtherKey);
        parts.entry.set_placeholder_text(Some(&tr_with("Message to {0}", &name)));
        let why_not = match device.state {
            State::Secure => None,
            _ if device.paired.is_some() => Some(tr_with("“{0}” is not connected now", &name)),
            _ => Some(tr_with("Pair with “{0}” first", &name)),
        };
        let or = |usual: &str| why_not.clone().unwrap_or_else(|| tr(usual));
        parts.entry.set_tooltip_text(Some(&why_not.clone().unwrap_or_else(|| tr_with("Message to {0}", &name))));
        parts.attach.set_tooltip_text(Some(&or("Send Files")));
        parts.send.set_tooltip_text(Some(&or("Send Message")));
    }

    fn clear(&self, id: &str) {
        let state = &self.imp().state;
        state.id.replace(id.to_owned());
        state.reads_above.set(false);
        for row in state.rows.take() {
            self.imp().lines.remove(&row);
        }
        self.imp().entry.set_text("");
    }

    fn show_lines(&self, device: &Device, lines: &[Line]) {
        let state = &self.imp().state;
        let Some(act) = state.act.get() else { return };
        let mut rows = state.rows.borrow_mut();
        for (row, line) in rows.iter().zip(lines) {
            row.update(line);
        }
        for line in lines.iter().skip(rows.len()) {
            let row = LineRow::new(line, &device.name, act);
            self.imp().lines.append(&row);
            rows.push(row);
        }
    }
}

/// Calls `drop` with the files that are dropped on `widget`.
pub fn take_files(widget: &gtk4::Widget, drop: impl Fn(Vec<PathBuf>) + 'static) {
    let target = gtk4::DropTarget::new(gdk::FileList::static_type(), gdk::DragAction::COPY);
    target.connect_drop(move |_, value, _, _| {
        let files = value.get::<gdk::FileList>().map(|list| paths(&list)).unwrap_or_default();
        let any = !files.is_empty();
        if any {
            drop(files);
        }
        any
    });
    widget.add_controller(target);
}

/// Files that are not on this machine have no path, and are left out.
pub fn paths(files: &gdk::FileList) -> Vec<PathBuf> {
    files.files().iter().filter_map(gio::prelude::FileExt::path).collect()
}

/// An action that is disabled now is no error.
fn drop_result(result: Result<(), glib::BoolError>) {
    drop(result);
}
