//! What is seen. The window draws the values of a [`Source`], and each wish of the person goes back as an [`Act`].
//!
//! Widgets only: no socket and no packet is named here.

/// A widget with a composite template, whose children are fields of `imp()`, beside a `state`.
macro_rules! template {
    ($module:ident::$name:ident($parent:ty) $file:tt $gtype:tt, $state:ty, [$($child:ident: $kind:ty),* $(,)?], $($relations:tt)*) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            use gtk4::subclass::prelude::*;
            #[derive(Default, gtk4::CompositeTemplate)]
            #[template(file = $file)]
            pub struct $name {
                $(#[template_child] pub $child: gtk4::TemplateChild<$kind>,)*
                pub state: $state,
            }
            #[glib::object_subclass]
            impl ObjectSubclass for $name {
                const NAME: &'static str = $gtype;
                type Type = super::$name;
                type ParentType = $parent;
                fn class_init(class: &mut Self::Class) {
                    class.bind_template();
                }
                fn instance_init(object: &glib::subclass::InitializingObject<Self>) {
                    object.init_template();
                }
            }
            impl ObjectImpl for $name {}
            impl WidgetImpl for $name {}
        }
        glib::wrapper! {
            pub struct $name(ObjectSubclass<$module::$name>) $($relations)*;
        }
    };
}

mod dialogs;
mod draw;
mod line;
mod row;
mod talk;
mod window;

use std::path::PathBuf;
use std::rc::Rc;

use adw::prelude::*;

use crate::near::{Change, Device, Line, Near, Network, OpenError};
pub use window::Window;

/// What the person asks for. A `String` that comes first is the id of a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    SearchAgain,
    ConnectTo(String),
    Rename(String),
    TryAgain(String),
    Pair(String),
    Answer(String, bool),
    EnterCode(String, String),
    CancelPairing(String),
    Forget(String),
    KeepApart(String),
    SendText(String, String),
    SendFiles(String, Vec<PathBuf>),
    Stop(u64),
    Again(u64),
}

/// Passes on what the person wants.
type Acts = Rc<dyn Fn(Act)>;
/// The button that agrees (or helps) with a device of this id was used, or the one that refuses.
type Presses = Rc<dyn Fn(&str, bool)>;

/// Where the window has its values from: [`Near`], or whatever a test wants it to show.
pub trait Source {
    fn own_name(&self) -> String;
    fn network(&self) -> Network;
    fn devices(&self) -> Vec<Device>;
    fn lines(&self, id: &str) -> Vec<Line>;
    /// Returns what to tell the person if it cannot be done.
    fn act(&self, act: Act) -> Result<(), String>;
}

impl Source for Near {
    fn own_name(&self) -> String {
        Near::own_name(self)
    }

    fn network(&self) -> Network {
        Near::network(self)
    }

    fn devices(&self) -> Vec<Device> {
        Near::devices(self)
    }

    fn lines(&self, id: &str) -> Vec<Line> {
        Near::lines(self, id)
    }

    fn act(&self, act: Act) -> Result<(), String> {
        match act {
            Act::SearchAgain => self.search_again(),
            Act::ConnectTo(address) => return self.connect_to(&address),
            Act::Rename(name) => return self.rename(&name),
            Act::TryAgain(id) => self.try_again(&id),
            Act::Pair(id) => self.pair(&id),
            Act::Answer(id, yes) => self.answer(&id, yes),
            Act::EnterCode(id, digits) => self.enter_code(&id, &digits),
            Act::CancelPairing(id) => self.cancel_pairing(&id),
            Act::Forget(id) => self.forget(&id),
            Act::KeepApart(id) => self.keep_apart(&id),
            Act::SendText(id, text) => return self.send_text(&id, &text),
            Act::SendFiles(id, files) => return self.send_files(&id, &files),
            Act::Stop(transfer) => self.stop(transfer),
            Act::Again(transfer) => self.again(transfer),
        }
        Ok(())
    }
}

/// Opens the window of a core, or the one that says why there is none.
pub fn open(application: &adw::Application, near: Result<Near, OpenError>) -> Window {
    let window = match near {
        Ok(near) => {
            let window = Window::new(application, Rc::new(near.clone()));
            let weak = window.downgrade();
            near.connect_change(move |change: &Change| {
                if let Some(window) = weak.upgrade() {
                    window.changed(change);
                }
            });
            window
        }
        Err(error) => Window::without_core(application, &error),
    };
    window.present();
    window
}

fn load_style() {
    let Some(display) = gtk4::gdk::Display::default() else { return };
    let provider = gtk4::CssProvider::new();
    provider.load_from_data(include_str!("near.css"));
    gtk4::style_context_add_provider_for_display(&display, &provider, gtk4::STYLE_PROVIDER_PRIORITY_APPLICATION);
}

/// Translates a text for the person.
pub fn tr(text: &str) -> String {
    glib::dgettext(Some("near"), text).into()
}

/// Translates a text, then puts `values` in the place of `{0}`, `{1}` …
pub fn tr_with(text: &str, values: &[&str]) -> String {
    fill(&tr(text), values)
}

fn fill(text: &str, values: &[&str]) -> String {
    let mut whole = String::new();
    // In one pass: a value may look like a place.
    for (at, piece) in text.split('{').enumerate() {
        match piece.split_once('}') {
            Some((place, rest)) if at > 0 => {
                whole.push_str(place.parse().ok().and_then(|place: usize| values.get(place)).unwrap_or(&""));
                whole.push_str(rest);
            }
            _ => whole.push_str(piece),
        }
    }
    whole
}
