//! The window: the list of devices at the left, the conversation with one of them at the right.

use std::cell::{Cell, OnceCell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use adw::prelude::*;
use glib::subclass::prelude::ObjectSubclassIsExt;
use gtk4::gdk;

use super::dialogs::{self, Dialogs};
use super::row::{DeviceRow, remedy};
use super::talk::{Talk, paths};
use super::{Act, Acts, Presses, Source, load_style, tr, tr_with};
use crate::near::{Device, OpenError, PairingState, State};

#[derive(Default)]
pub struct Shown {
    pub source: OnceCell<Rc<dyn Source>>,
    pub devices: RefCell<Vec<Device>>,
    pub rows: RefCell<Vec<DeviceRow>>,
    pub chosen: RefCell<Option<String>>,
    dialogs: Dialogs,
    /// The devices that asked to pair, and whose notification may be there.
    pub asked: RefCell<Vec<String>>,
    pub next_draw: Cell<Option<Instant>>,
    /// A drawing is due.
    pub due: Cell<bool>,
    /// The seconds that some words count are going down.
    pub counts: Cell<bool>,
    chooser: RefCell<Option<gtk4::FileChooserNative>>,
}

template!(imp::Window(adw::ApplicationWindow) "window.ui" "NearWindow", Shown, [
    pages: gtk4::Stack,
    toasts: adw::ToastOverlay,
    leaflet: adw::Leaflet,
    side: gtk4::Box,
    title: gtk4::Label,
    subtitle: gtk4::Label,
    side_pages: gtk4::Stack,
    list: gtk4::ListBox,
    status: adw::StatusPage,
    status_button: gtk4::Button,
    note: gtk4::Label,
    talk: Talk,
    taken: adw::StatusPage,
], @extends adw::ApplicationWindow, gtk4::ApplicationWindow, gtk4::Window, gtk4::Widget,
   @implements gio::ActionGroup, gio::ActionMap, gtk4::Buildable, gtk4::ConstraintTarget, gtk4::Native, gtk4::Root, gtk4::ShortcutManager);
impl gtk4::subclass::window::WindowImpl for imp::Window {}
impl gtk4::subclass::application_window::ApplicationWindowImpl for imp::Window {}
impl adw::subclass::application_window::AdwApplicationWindowImpl for imp::Window {}

type Action = (&'static str, &'static str, fn(&Window));
const ACTIONS: [Action; 11] = [
    ("search", "", |window| _ = window.act(Act::SearchAgain)),
    ("address", "<Control>n", dialogs::address),
    ("rename", "", |window| {
        dialogs::rename(window, &window.source().map_or_else(String::new, |source| source.own_name()))
    }),
    ("forget", "", |window| _ = window.chosen().inspect(|device| dialogs::forget(window, device))),
    ("files", "<Control>o", Window::choose_files),
    ("paste", "<Control>v", Window::paste),
    ("send", "<Control>Return", Window::send),
    ("previous", "<Alt>Up", |window| window.step(-1)),
    ("next", "<Alt>Down", |window| window.step(1)),
    ("back", "", |window| window.imp().leaflet.set_visible_child(&window.imp().side.get())),
    ("close", "<Control>w", |window| window.close()),
];

impl Window {
    pub fn new(application: &adw::Application, source: Rc<dyn Source>) -> Window {
        let window = Window::bare(application);
        let _ = window.imp().state.source.set(source);
        window.connect_parts();
        window.draw();
        window
    }

    /// A window that says why there is nothing else to see.
    pub fn without_core(application: &adw::Application, error: &OpenError) -> Window {
        let window = Window::bare(application);
        let parts = window.imp();
        let (title, text) = match error {
            OpenError::PortTaken { port, .. } => (
                tr_with("Port {0} Is Taken", &[&port.to_string()]),
                tr_with("{0}. Only one program can have the port.", &[&error.to_string()]),
            ),
            OpenError::DataInUse(_) => (tr("Near Is Already Running"), error.to_string()),
            OpenError::Other(_) => (tr("Near Cannot Start"), error.to_string()),
        };
        parts.taken.set_title(&title);
        parts.taken.set_description(Some(&glib::markup_escape_text(&text)));
        parts.pages.set_visible_child_name("taken");
        window
    }

    fn bare(application: &adw::Application) -> Window {
        Talk::static_type();
        load_style();
        let window: Window = glib::Object::builder().property("application", application).build();
        for (name, keys, run) in ACTIONS {
            let entry = gio::ActionEntry::builder(name).activate(move |window: &Window, _, _| run(window)).build();
            window.add_action_entries([entry]);
            if !keys.is_empty() {
                application.set_accels_for_action(&format!("win.{name}"), &[keys]);
            }
        }
        application.set_accels_for_action("win.show-help-overlay", &["<Control>question"]);
        application.set_accels_for_action("app.quit", &["<Control>q"]);
        let quit =
            gio::ActionEntry::builder("quit").activate(|application: &adw::Application, _, _| application.quit());
        let weak = window.downgrade();
        let choose = gio::ActionEntry::builder("device").parameter_type(Some(glib::VariantTy::STRING));
        let choose = choose.activate(move |_: &adw::Application, _, id| {
            if let (Some(window), Some(id)) = (weak.upgrade(), id.and_then(|id| id.get::<String>())) {
                window.choose(&id);
                window.present();
            }
        });
        application.add_action_entries([quit.build(), choose.build()]);
        window.set_help_overlay(dialogs::shortcuts().as_ref());
        window
    }

    fn connect_parts(&self) {
        let parts = self.imp();
        let weak = self.downgrade();
        parts.list.connect_row_activated(move |_, row| {
            if let (Some(window), Some(row)) = (weak.upgrade(), row.downcast_ref::<DeviceRow>()) {
                window.choose(&row.id());
            }
        });
        let weak = self.downgrade();
        parts.list.set_sort_func(move |one, other| {
            let Some(window) = weak.upgrade() else { return gtk4::Ordering::Equal };
            let rows = window.imp().state.rows.borrow();
            let place =
                |row: &gtk4::ListBoxRow| rows.iter().position(|found| found.upcast_ref::<gtk4::ListBoxRow>() == row);
            place(one).cmp(&place(other)).into()
        });
        let weak = self.downgrade();
        parts.leaflet.connect_folded_notify(move |leaflet| {
            if let Some(window) = weak.upgrade() {
                window.imp().talk.set_folded(leaflet.is_folded());
                window.draw_soon();
            }
        });
        parts.talk.set_folded(parts.leaflet.is_folded());
        let weak = self.downgrade();
        let act: Acts = Rc::new(move |act| _ = weak.upgrade().map(|window| window.act(act)));
        let weak = self.downgrade();
        let drop = move |files| _ = weak.upgrade().map(|window| window.send_files(files));
        parts.talk.connect(act, self.presser(), drop);
    }

    pub(super) fn presser(&self) -> Presses {
        let weak = self.downgrade();
        Rc::new(move |id, yes| _ = weak.upgrade().map(|window| window.press(id, yes)))
    }

    pub(super) fn source(&self) -> Option<&Rc<dyn Source>> {
        self.imp().state.source.get()
    }

    pub(super) fn dialogs(&self) -> &Dialogs {
        &self.imp().state.dialogs
    }

    pub(super) fn device(&self, id: &str) -> Option<Device> {
        self.imp().state.devices.borrow().iter().find(|device| device.id == id).cloned()
    }

    pub(super) fn chosen(&self) -> Option<Device> {
        let id = self.imp().state.chosen.borrow().clone();
        id.and_then(|id| self.device(&id))
    }

    /// Does what the person wants, or tells why not. Returns whether it was done.
    pub(super) fn act(&self, act: Act) -> bool {
        let Some(source) = self.source().cloned() else { return false };
        let done = source.act(act).map_err(|reason| self.tell(&reason)).is_ok();
        self.draw_soon();
        done
    }

    /// The button that agrees or helps, or the one that refuses.
    fn press(&self, id: &str, yes: bool) {
        let Some(device) = self.device(id) else { return };
        match &device.state {
            State::OtherKey => dialogs::alarm(self, &device),
            State::Pairing(PairingState::AskedByThem { near: false, .. }) if yes => {
                self.dialogs().compare(id);
                self.draw();
            }
            State::Pairing(PairingState::AskedByThem { .. }) => _ = self.act(Act::Answer(device.id, yes)),
            State::Pairing(_) => _ = self.act(Act::CancelPairing(device.id)),
            _ => _ = remedy(&device).map(|(_, act)| self.act(act)),
        }
    }

    /// Shows the conversation with a device.
    pub fn choose(&self, id: &str) {
        let parts = self.imp();
        if self.device(id).is_some() {
            parts.state.chosen.replace(Some(id.to_owned()));
            self.draw();
            parts.leaflet.set_visible_child(&parts.talk.get());
        }
    }

    fn step(&self, by: isize) {
        let devices = self.imp().state.devices.borrow().clone();
        let chosen = self.chosen().and_then(|chosen| devices.iter().position(|device| device.id == chosen.id));
        let next = chosen.map_or(Some(0), |at| at.checked_add_signed(by));
        if let Some(device) = next.and_then(|at| devices.get(at)) {
            self.choose(&device.id);
        }
    }

    fn send(&self) {
        let entry = self.imp().talk.entry();
        let text = entry.text();
        if let Some(device) = self.chosen().filter(|_| !text.trim().is_empty())
            && self.act(Act::SendText(device.id, text.into()))
        {
            entry.set_text("");
        }
    }

    fn send_files(&self, files: Vec<PathBuf>) {
        if let Some(device) = self.chosen().filter(|_| !files.is_empty()) {
            self.act(Act::SendFiles(device.id, files));
        }
    }

    fn choose_files(&self) {
        let Some(device) = self.chosen() else { return };
        let title = tr_with("Send Files to “{0}”", &[&device.name]);
        let (title, send, cancel) = (Some(&*title), tr("_Send"), tr("_Cancel"));
        let action = gtk4::FileChooserAction::Open;
        let chooser = gtk4::FileChooserNative::new(title, Some(self), action, Some(&send), Some(&cancel));
        chooser.set_select_multiple(true);
        chooser.set_modal(true);
        let weak = self.downgrade();
        chooser.connect_response(move |chooser, response| {
            let Some(window) = weak.upgrade() else { return };
            if response == gtk4::ResponseType::Accept {
                let files = chooser.files();
                let paths = files.iter::<gio::File>().flatten().filter_map(|file| gio::prelude::FileExt::path(&file));
                window.act(Act::SendFiles(device.id.clone(), paths.collect()));
            }
            window.imp().state.chooser.take();
        });
        chooser.show();
        self.imp().state.chooser.replace(Some(chooser));
    }

    fn paste(&self) {
        let clipboard = self.clipboard();
        if clipboard.formats().contains_type(gdk::FileList::static_type()) {
            let weak = self.downgrade();
            let kind = gdk::FileList::static_type();
            clipboard.read_value_async(kind, glib::Priority::DEFAULT, gio::Cancellable::NONE, move |value| {
                let files = value.ok().and_then(|value| value.get::<gdk::FileList>().ok());
                if let (Some(window), Some(files)) = (weak.upgrade(), files) {
                    window.send_files(paths(&files));
                }
            });
        } else if let Some(text) = self.imp().talk.entry().delegate() {
            let _ = text.activate_action("clipboard.paste", None);
        }
    }
}
