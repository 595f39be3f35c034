//! The window on a display, one scene at a time, and what can be seen of it.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use adw::prelude::*;
use near::ui::{Source, Window};

use super::scenes::Scene;

/// Nothing takes this long; whatever does hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs the main loop until `what` holds.
#[track_caller]
pub fn until(why: &str, what: impl Fn() -> bool) {
    let over = Rc::new(Cell::new(false));
    let set = over.clone();
    let timer = glib::timeout_add_local_once(LIMIT, move || set.set(true));
    while !what() {
        assert!(!over.get(), "waited {LIMIT:?} for this: {why}");
        glib::MainContext::default().iteration(true);
    }
    if !over.get() {
        timer.remove();
    }
}

/// Waits until a window has painted so often.
#[track_caller]
pub fn frames(window: &impl IsA<gtk4::Window>, count: u32) {
    let window = window.upcast_ref::<gtk4::Window>();
    until("the window is mapped", || window.surface().is_some_and(|surface| surface.is_mapped()));
    let clock = window.surface().unwrap().frame_clock();
    let painted = Rc::new(Cell::new(0));
    let (set, again) = (painted.clone(), window.clone());
    let signal = clock.connect_after_paint(move |_| {
        set.set(set.get() + 1);
        // A window that is to be drawn again has no picture.
        if set.get() < count {
            again.queue_draw();
        }
    });
    window.queue_draw();
    until("the window paints", || painted.get() >= count);
    clock.disconnect(signal);
}

pub fn open(application: &adw::Application, scene: &Scene) -> Window {
    let source: Rc<dyn Source> = scene.source.clone();
    let window = match &scene.taken {
        Some(error) => Window::without_core(application, error),
        None => Window::new(application, source),
    };
    window.set_default_size(if scene.narrow { 360 } else { 840 }, 560);
    if let Some(id) = scene.chosen {
        window.choose(id);
    }
    window.present();
    frames(&window, 3);
    if let Some(action) = scene.action {
        WidgetExt::activate_action(&window, action, None).unwrap();
    }
    for dialog in dialogs(&window) {
        frames(&dialog, 3);
        if let Some(dialog) = dialog.downcast_ref::<adw::MessageDialog>()
            && dialog.default_response().as_deref() == Some("cancel")
        {
            until("the dialog can be agreed to", || dialog.is_response_enabled("go"));
            frames(dialog, 2);
        }
    }
    frames(&window, 2);
    window
}

/// The windows that are open above `window`.
pub fn dialogs(window: &Window) -> Vec<gtk4::Window> {
    let all = gtk4::Window::toplevels();
    let all = all.iter::<glib::Object>().flatten().filter_map(|found| found.downcast::<gtk4::Window>().ok());
    all.filter(|found| found.is_visible() && found != window.upcast_ref::<gtk4::Window>()).collect()
}

/// Ends a scene.
pub fn close(window: Window) {
    for dialog in dialogs(&window) {
        if dialog.is::<gtk4::ShortcutsWindow>() { dialog.set_visible(false) } else { dialog.destroy() }
    }
    window.destroy();
}

/// All widgets below and including `root` that can be seen.
pub fn widgets(root: &gtk4::Widget) -> Vec<gtk4::Widget> {
    let mut found = Vec::new();
    if root.is_mapped() {
        found.push(root.clone());
        let mut child = root.first_child();
        while let Some(widget) = child {
            found.extend(widgets(&widget));
            child = widget.next_sibling();
        }
    }
    found
}

pub fn shown(window: &Window) -> Vec<gtk4::Widget> {
    let mut roots = dialogs(window);
    roots.push(window.clone().upcast());
    roots.iter().flat_map(|root| widgets(root.upcast_ref())).collect()
}

/// The texts that can be read, with usual spaces.
pub fn texts(widgets: &[gtk4::Widget]) -> Vec<String> {
    let labels = widgets.iter().filter_map(|widget| widget.downcast_ref::<gtk4::Label>());
    labels.map(|label| label.text().replace('\u{a0}', " ")).collect()
}

pub fn button(window: &Window, label: &str) -> gtk4::Button {
    let all = shown(window).into_iter().filter_map(|widget| widget.downcast::<gtk4::Button>().ok());
    let mut all = all.filter(|button| texts(&widgets(button.upcast_ref())).iter().any(|text| text == label));
    all.next().unwrap_or_else(|| panic!("no button “{label}”, but {:?}", texts(&shown(window))))
}

/// Draws a window, with its dialog above it, into a file.
pub fn picture(window: &Window, file: &Path) {
    let snapshot = gtk4::Snapshot::new();
    let sized = |window: &gtk4::Window| {
        let seen = gtk4::WidgetPaintable::new(Some(window));
        let (width, height) = (seen.intrinsic_width() as f32, seen.intrinsic_height() as f32);
        (seen, width, height)
    };
    let (seen, width, height) = sized(window.upcast_ref());
    seen.snapshot(&snapshot, width.into(), height.into());
    for dialog in dialogs(window) {
        let (seen, wide, high) = sized(&dialog);
        snapshot.append_color(
            &gtk4::gdk::RGBA::new(0.0, 0.0, 0.0, 0.35),
            &gtk4::graphene::Rect::new(0.0, 0.0, width, height),
        );
        snapshot
            .translate(&gtk4::graphene::Point::new(((width - wide) / 2.0).round(), ((height - high) / 2.0).round()));
        seen.snapshot(&snapshot, wide.into(), high.into());
    }
    let node = snapshot.to_node().expect("something to see");
    let area = gtk4::graphene::Rect::new(0.0, 0.0, width, height);
    let texture = window.renderer().expect("a renderer").render_texture(&node, Some(&area));
    texture.save_to_png(file).unwrap();
}
