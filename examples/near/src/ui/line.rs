//! A row of a conversation: a text, a link, a ping or a file, in words that are all visible.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

use adw::prelude::*;
use glib::subclass::prelude::ObjectSubclassIsExt;

use super::{Act, Acts, tr, tr_with};
use crate::near::{Line, Transfer, TransferState, What};

/// More of a text is shown on request only.
const TEXT_SHOWN: usize = 4 << 10;
/// Progress that changes more often cannot be read, nor listened to.
const WORDS_EVERY: Duration = Duration::from_secs(1);

/// What the button of a row does.
#[derive(Default)]
enum Press {
    #[default]
    Nothing,
    ShowAll(String),
    Open(String),
    Again(u64),
}

#[derive(Default)]
pub struct Shown {
    press: RefCell<Press>,
    transfer: Cell<u64>,
    state: RefCell<Option<TransferState>>,
    said: Cell<Option<Instant>>,
}

template!(imp::LineRow(gtk4::ListBoxRow) "line.ui" "NearLineRow", Shown, [
    said: gtk4::Label,
    card: gtk4::Box,
    icon: gtk4::Image,
    text: gtk4::Label,
    words: gtk4::Label,
    progress: gtk4::ProgressBar,
    meta: gtk4::Label,
    stop: gtk4::Button,
    button: gtk4::Button,
], @extends gtk4::ListBoxRow, gtk4::Widget, @implements gtk4::Actionable, gtk4::Buildable, gtk4::ConstraintTarget);
impl gtk4::subclass::list_box_row::ListBoxRowImpl for imp::LineRow {}

impl LineRow {
    pub fn new(line: &Line, who: &str, act: &Acts) -> LineRow {
        let row: LineRow = glib::Object::new();
        let parts = row.imp();
        let time = line.at.format("%H:%M").unwrap_or_default();
        let who = if line.ours { tr("You") } else { who.to_owned() };
        parts.meta.set_text(&tr_with("{0}, {1}", &[&who, &time]));
        let file = matches!(line.what, What::File(_));
        parts.meta.set_xalign(if line.ours && !file { 1.0 } else { 0.0 });
        for part in [parts.icon.upcast_ref::<gtk4::Widget>(), parts.words.upcast_ref()] {
            part.set_visible(file);
        }
        parts.progress.set_visible(false);
        parts.stop.set_visible(false);
        parts.button.set_visible(false);
        if !file {
            parts.card.set_halign(if line.ours { gtk4::Align::End } else { gtk4::Align::Start });
        }

        let (weak, for_stop) = (row.downgrade(), act.clone());
        parts.stop.connect_clicked(move |_| {
            if let Some(row) = weak.upgrade() {
                for_stop(Act::Stop(row.imp().state.transfer.get()));
            }
        });
        let (weak, act) = (row.downgrade(), act.clone());
        parts.button.connect_clicked(move |_| {
            if let Some(row) = weak.upgrade() {
                row.press(&act);
            }
        });
        row.show(line);
        row
    }

    fn press(&self, act: &Acts) {
        match self.imp().state.press.take() {
            Press::Nothing => {}
            Press::ShowAll(text) => {
                self.imp().text.set_text(&text);
                self.imp().button.set_visible(false);
            }
            Press::Open(uri) => {
                let window = self.root().and_downcast::<gtk4::Window>();
                gtk4::show_uri(window.as_ref(), &uri, gtk4::gdk::CURRENT_TIME);
                self.imp().state.press.replace(Press::Open(uri));
            }
            Press::Again(transfer) => act(Act::Again(transfer)),
        }
    }

    fn offer(&self, label: &str, press: Press) {
        self.imp().button.set_label(label);
        self.imp().button.set_visible(true);
        self.imp().state.press.replace(press);
    }

    /// Draws what may have changed since: the transfer.
    pub fn update(&self, line: &Line) {
        if let What::File(_) = line.what {
            self.show(line);
        }
    }

    fn show(&self, line: &Line) {
        let text = &self.imp().text;
        match &line.what {
            What::Text(whole) if whole.len() > TEXT_SHOWN => {
                let end = (0..=TEXT_SHOWN).rev().find(|&end| whole.is_char_boundary(end)).unwrap_or(0);
                text.set_text(&tr_with("{0}…", &[&whole[..end]]));
                self.offer(&tr("Show All"), Press::ShowAll(whole.clone()));
            }
            What::Text(whole) => text.set_text(whole),
            What::Link(url) => {
                text.set_text(url);
                // Anything else could start a program.
                if url.starts_with("https://") || url.starts_with("http://") {
                    self.offer(&tr("Open Link"), Press::Open(url.clone()));
                }
            }
            What::Ping(message) if message.is_empty() => text.set_text(&tr("Ping")),
            What::Ping(message) => text.set_text(&tr_with("Ping: {0}", &[message])),
            What::File(transfer) => self.show_transfer(transfer),
        }
        let (parts, words) = (self.imp(), self.imp().words.text());
        let said = tr_with("{0}: {1}", &[&parts.meta.text(), &parts.text.text()]);
        parts.said.set_text(&if words.is_empty() { said } else { tr_with("{0}, {1}", &[&said, &words]) });
    }

    fn show_transfer(&self, transfer: &Transfer) {
        let (parts, now) = (self.imp(), Instant::now());
        let same = parts.state.state.borrow().as_ref() == Some(&transfer.state);
        if same && parts.state.said.get().is_some_and(|said| now - said < WORDS_EVERY) {
            return;
        }
        parts.state.said.set(Some(now));
        parts.words.set_text(&words(transfer));
        let part = if transfer.size == 0 { 1.0 } else { transfer.done as f64 / transfer.size as f64 };
        parts.progress.set_fraction(part);
        if same {
            return;
        }
        parts.state.state.replace(Some(transfer.state.clone()));
        parts.state.transfer.set(transfer.id);
        parts.text.set_text(&transfer.name);
        parts.icon.set_icon_name(Some(if transfer.ours {
            "document-send-symbolic"
        } else {
            "folder-download-symbolic"
        }));
        parts.progress.set_visible(transfer.state == TransferState::Running);
        parts.stop.set_visible(matches!(transfer.state, TransferState::Waiting | TransferState::Running));
        match &transfer.state {
            TransferState::Received(path) => {
                let uri = gio::prelude::FileExt::uri(&gio::File::for_path(path));
                self.offer(&tr("Open"), Press::Open(uri.into()));
            }
            TransferState::Stopped | TransferState::Failed(_) if transfer.ours => {
                self.offer(&tr("Try Again"), Press::Again(transfer.id));
            }
            _ => parts.button.set_visible(false),
        }
    }
}

/// Says how far a file is.
pub fn words(transfer: &Transfer) -> String {
    let size = glib::format_size(transfer.size);
    match &transfer.state {
        TransferState::Waiting => tr_with("Waiting — {0}", &[&size]),
        TransferState::Running => {
            let (done, speed) = (glib::format_size(transfer.done), glib::format_size(transfer.speed));
            match transfer.size.saturating_sub(transfer.done).checked_div(transfer.speed) {
                None => tr_with("{0} of {1}", &[&done, &size]),
                Some(left) => tr_with("{0} of {1} — {2}/s — {3}", &[&done, &size, &speed, &time_left(left)]),
            }
        }
        TransferState::Received(path) => {
            let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
            tr_with("Received — in {0}", &[&folder.to_string_lossy()])
        }
        TransferState::Sent => tr_with("Sent — {0}", &[&size]),
        TransferState::Stopped => tr("Stopped — nothing was kept"),
        TransferState::Failed(reason) => tr_with("Failed: {0}", &[reason]),
    }
}

fn time_left(seconds: u64) -> String {
    match seconds {
        0..90 => tr_with("{0} s left", &[&seconds.to_string()]),
        90..5400 => tr_with("{0} min left", &[&seconds.div_ceil(60).to_string()]),
        _ => tr_with("{0} h left", &[&seconds.div_ceil(3600).to_string()]),
    }
}
