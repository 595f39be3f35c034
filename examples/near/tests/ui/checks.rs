//! What each scene must say, how it is reached, and what its controls do.

use std::time::{Duration, Instant};

use adw::prelude::*;
use near::near::{Change, PairingState, State, TransferState, What};
use near::ui::{Act, Window};

use super::scenes::{self, Scene};
use super::stage::{self, button, dialogs, frames, shown, texts, until, widgets};

pub type Test = (&'static str, fn(&adw::Application));

pub const ALL: &[Test] = &[
    ("every_state_is_in_words", every_state_is_in_words),
    ("every_control_has_a_name", every_control_has_a_name),
    ("the_keyboard_reaches_every_control", the_keyboard_reaches_every_control),
    ("nothing_is_cut_at_twice_the_size", nothing_is_cut_at_twice_the_size),
    ("buttons_pass_on_what_is_wanted", buttons_pass_on_what_is_wanted),
    ("pairing_dialogs_follow_the_state", pairing_dialogs_follow_the_state),
    ("the_alarm_keeps_apart_by_default", the_alarm_keeps_apart_by_default),
    ("text_that_is_refused_stays", text_that_is_refused_stays),
    ("files_that_are_dropped_or_pasted_are_sent", files_that_are_dropped_or_pasted_are_sent),
    ("progress_is_said_once_a_second", progress_is_said_once_a_second),
    ("a_long_text_is_shown_on_request", a_long_text_is_shown_on_request),
    ("keys_are_those_of_the_table", keys_are_those_of_the_table),
    ("a_narrow_window_goes_back", a_narrow_window_goes_back),
    ("a_spinner_waits", a_spinner_waits),
    ("a_device_that_goes_takes_its_row_along", a_device_that_goes_takes_its_row_along),
];

fn scene(name: &str) -> Scene {
    scenes::all().into_iter().find(|scene| scene.name == name).unwrap()
}

fn each_scene(application: &adw::Application, check: impl Fn(&Scene, &Window)) {
    for scene in scenes::all() {
        let window = stage::open(application, &scene);
        check(&scene, &window);
        stage::close(window);
    }
}

fn every_state_is_in_words(application: &adw::Application) {
    each_scene(application, |scene, window| {
        for words in scene.words {
            let why = format!("{}: “{words}”", scene.name);
            until(&why, || texts(&shown(window)).iter().any(|text| text == words));
        }
    });
}

/// The text of it or in it, or a tooltip.
fn name(widget: &gtk4::Widget) -> Option<String> {
    let inside = || texts(&widgets(widget)).into_iter().find(|text| !text.is_empty());
    // A menu button and an entry have the focusable part inside.
    let outside = || widget.parent().and_then(|parent| parent.tooltip_text());
    let hint = || widget.parent().and_downcast::<gtk4::Entry>().and_then(|entry| entry.placeholder_text());
    widget.tooltip_text().map(Into::into).or_else(inside).or_else(|| outside().or_else(hint).map(Into::into))
}

fn controls(window: &Window) -> Vec<gtk4::Widget> {
    let all = shown(window).into_iter().filter(|widget| widget.is_focusable() && !widget.is::<gtk4::Window>());
    // Those of the shortcuts window and of the title bar are GTK's; containers pass the focus on.
    let foreign = |widget: &gtk4::Widget| {
        widget.ancestor(gtk4::WindowControls::static_type()).is_some()
            || widget.is::<gtk4::ScrolledWindow>()
            || widget.is::<gtk4::ListBox>()
            || WidgetExt::root(widget).is_some_and(|root| root.is::<gtk4::ShortcutsWindow>())
    };
    all.filter(|widget| !foreign(widget)).collect()
}

fn every_control_has_a_name(application: &adw::Application) {
    each_scene(application, |scene, window| {
        for control in controls(window) {
            assert!(name(&control).is_some(), "{}: no name for {control:?}", scene.name);
        }
    });
    // Accessible labels cannot be read with GTK 4.8: the templates are looked at.
    for (file, template) in [
        ("window.ui", include_str!("../../src/ui/window.ui")),
        ("talk.ui", include_str!("../../src/ui/talk.ui")),
        ("line.ui", include_str!("../../src/ui/line.ui")),
        ("device.ui", include_str!("../../src/ui/device.ui")),
        ("dialogs.ui", include_str!("../../src/ui/dialogs.ui")),
    ] {
        for object in template.split("<object class=\"").skip(1) {
            let object = object.split("</object>").next().unwrap();
            let class = object.split('"').next().unwrap();
            let silent = object.contains("icon-name") && ["GtkButton", "GtkMenuButton"].contains(&class);
            if silent || ["GtkEntry", "GtkProgressBar"].contains(&class) {
                let label = object.split("<accessibility>").nth(1).is_some_and(|part| part.contains("name=\"label\""));
                assert!(label, "{file}: no accessible label in {object}");
            }
        }
    }
}

fn the_keyboard_reaches_every_control(application: &adw::Application) {
    each_scene(application, |scene, window| {
        let (mut roots, controls) = (dialogs(window), controls(window));
        // A modal dialog keeps the keyboard.
        if roots.is_empty() {
            roots.push(window.clone().upcast());
        }
        let mut reached = Vec::new();
        for root in roots {
            RootExt::set_focus(&root, None::<&gtk4::Widget>);
            tab(&root, &mut reached);
            // Within a list, the arrows go from row to row, and Tab into the row.
            for row in widgets(root.upcast_ref()).into_iter().filter(|widget| widget.is::<gtk4::ListBoxRow>()) {
                assert!(row.grab_focus(), "{}: a row does not take the focus", scene.name);
                reached.push(row);
                tab(&root, &mut reached);
            }
        }
        for control in controls {
            let blocked =
                !dialogs(window).is_empty() && WidgetExt::root(&control).is_some_and(|root| root.is::<Window>());
            if control.is_sensitive() && !blocked {
                assert!(
                    reached.contains(&control),
                    "{}: Tab does not reach {control:?}: {:?}",
                    scene.name,
                    name(&control)
                );
            }
        }
    });
}

/// Presses Tab until it comes round.
fn tab(root: &gtk4::Window, reached: &mut Vec<gtk4::Widget>) {
    for _ in 0..100 {
        if !root.child_focus(gtk4::DirectionType::TabForward) {
            return;
        }
        reached.extend(RootExt::focus(root));
    }
}

fn nothing_is_cut_at_twice_the_size(application: &adw::Application) {
    let settings = gtk4::Settings::default().unwrap();
    let usual = settings.gtk_xft_dpi();
    settings.set_gtk_xft_dpi(2 * 96 * 1024);
    each_scene(application, |scene, window| {
        // Narrow dialogs have their buttons in another order.
        for dialog in dialogs(window) {
            let focus = RootExt::focus(&dialog).and_then(|focus| name(&focus));
            let agrees = ["They Are the Same", "Pair Anew…", "Forget"].map(Some);
            assert!(!agrees.contains(&focus.as_deref()), "{}: {focus:?} has the focus", scene.name);
        }
        for label in shown(window).iter().filter_map(|widget| widget.downcast_ref::<gtk4::Label>()) {
            let of_shortcuts = WidgetExt::root(label).is_some_and(|root| root.is::<gtk4::ShortcutsWindow>());
            // A hint in an entry may be longer than the entry: the tooltip says it as well.
            let entry = label.ancestor(gtk4::Entry::static_type());
            let of_entry = entry.is_some_and(|entry| entry.tooltip_text().is_some());
            if of_shortcuts || of_entry || label.text().is_empty() {
                continue;
            }
            let (layout, text) = (label.layout(), label.text());
            let (wide, high) = layout.pixel_size();
            let room = (label.width(), label.height());
            assert!(!layout.is_ellipsized(), "{}: “{text}” is cut", scene.name);
            assert!(wide <= room.0 && high <= room.1, "{}: “{text}” needs {wide}×{high} of {room:?}", scene.name);
            let root = WidgetExt::root(label).unwrap();
            let place = label.compute_bounds(&root).unwrap();
            let inside = place.x() >= 0.0 && place.x() + place.width() <= root.width() as f32;
            assert!(inside, "{}: “{text}” is beyond the window", scene.name);
        }
    });
    settings.set_gtk_xft_dpi(usual);
}

/// Clicks, and returns what was asked for.
fn click(scene: &Scene, button: &gtk4::Button) -> Vec<Act> {
    button.emit_clicked();
    scene.source.acts.take()
}

fn buttons_pass_on_what_is_wanted(application: &adw::Application) {
    let phone = || "kitchen_phone".to_owned();
    for (name, label, acts) in [
        ("not-paired", "Pair…", vec![Act::Pair(phone())]),
        ("gone", "Try Again", vec![Act::TryAgain("workshop".into())]),
        ("asked", "Show Code", vec![Act::Answer(phone(), true)]),
        ("asked", "Reject", vec![Act::Answer(phone(), false)]),
        ("waits", "Cancel", vec![Act::CancelPairing(phone())]),
        ("show-code", "Cancel", vec![Act::CancelPairing(phone())]),
        ("compare", "They Are the Same", vec![Act::Answer(phone(), true)]),
        ("compare", "Cancel", vec![Act::Answer(phone(), false)]),
        ("alarm", "Keep Apart", vec![Act::KeepApart("study_laptop".into())]),
        ("alarm", "Pair Anew…", vec![Act::Forget("study_laptop".into()), Act::Pair("study_laptop".into())]),
        ("forget", "Forget", vec![Act::Forget("study_laptop".into())]),
        ("talk-more", "Try Again", vec![Act::Again(4)]),
    ] {
        let scene = scene(name);
        let window = stage::open(application, &scene);
        assert_eq!(click(&scene, &button(&window, label)), acts, "{name}: {label}");
        stage::close(window);
    }
    let scene = scene("talk");
    let window = stage::open(application, &scene);
    let is_stop = |button: &gtk4::Button| button.tooltip_text().as_deref() == Some("Stop");
    let stop = shown(&window).into_iter().filter_map(|widget| widget.downcast().ok()).find(is_stop).unwrap();
    assert_eq!(click(&scene, &stop), [Act::Stop(1)]);
    stage::close(window);

    for (name, label, text, act) in [
        ("address", "Connect", " pi.local ", Act::ConnectTo("pi.local".into())),
        ("rename", "Rename", "Study", Act::Rename("Study".into())),
        ("enter-code", "Pair", "482 913", Act::EnterCode(phone(), "482 913".into())),
    ] {
        let scene = self::scene(name);
        let window = stage::open(application, &scene);
        entry(&window).set_text(text);
        assert_eq!(click(&scene, &button(&window, label)), [act]);
        stage::close(window);
    }
}

/// The entry of the dialog, or of the conversation if there is none.
fn entry(window: &Window) -> gtk4::Entry {
    shown(window).into_iter().find_map(|widget| widget.downcast().ok()).expect("an entry")
}

fn pairing_dialogs_follow_the_state(application: &adw::Application) {
    let scene = scene("asked-weakly");
    let window = stage::open(application, &scene);
    assert!(dialogs(&window).is_empty(), "who asks must not bring up a dialog");
    assert_eq!(click(&scene, &button(&window, "Compare…")), []);
    assert_eq!(dialogs(&window).len(), 1);
    assert_eq!(click(&scene, &button(&window, "They Are the Same")), [Act::Answer("kitchen_phone".into(), true)]);
    until("the dialog closes", || dialogs(&window).is_empty());

    let show = |state: State| {
        scene.source.devices.borrow_mut()[1].state = state;
        window.changed(&Change::Devices);
    };
    show(State::Pairing(PairingState::EnterCode { tries_left: 3, wrong: false }));
    until("the code is asked for", || dialogs(&window).len() == 1);
    let pair = button(&window, "Pair");
    entry(&window).set_text("48291");
    assert!(!pair.is_sensitive(), "five digits are no code");
    entry(&window).set_text("482913");
    assert!(pair.is_sensitive());
    assert_eq!(click(&scene, &pair), [Act::EnterCode("kitchen_phone".into(), "482913".into())]);
    show(State::Pairing(PairingState::EnterCode { tries_left: 2, wrong: true }));
    until("the code is asked for again", || texts(&shown(&window)).iter().any(|text| text.ends_with("Tries left: 2")));
    show(State::NotPaired);
    until("the dialog goes with the pairing", || dialogs(&window).is_empty());
    window.changed(&Change::PairingEnded { device: "kitchen_phone".into(), result: Err("the time is over".into()) });
    until("the reason is told", || {
        texts(&shown(&window)).iter().any(|text| text == "Not paired with “Kitchen phone”: the time is over")
    });
    assert_eq!(scene.source.acts.take(), []);
    stage::close(window);
}

fn the_alarm_keeps_apart_by_default(application: &adw::Application) {
    let scene = scene("alarm");
    let window = stage::open(application, &scene);
    let alarm: adw::MessageDialog = dialogs(&window).remove(0).downcast().unwrap();
    assert!(alarm.is_modal());
    assert_eq!(alarm.default_response().as_deref(), Some("cancel"));
    assert_eq!(alarm.response_appearance("go"), adw::ResponseAppearance::Destructive);
    assert_eq!(scene.source.acts.take(), [], "nothing is done before the answer");
    alarm.close();
    assert_eq!(scene.source.acts.take(), [Act::KeepApart("study_laptop".into())]);
    window.changed(&Change::Devices);
    frames(&window, 10);
    assert!(dialogs(&window).is_empty(), "an alarm that was answered does not come again");
    stage::close(window);
}

fn text_that_is_refused_stays(application: &adw::Application) {
    let scene = scene("talk");
    let window = stage::open(application, &scene);
    entry(&window).set_text("Hello");
    scene.source.refuses.replace(Some("“Study laptop” is not connected".into()));
    entry(&window).emit_activate();
    assert_eq!(entry(&window).text(), "Hello");
    until("the reason is told", || texts(&shown(&window)).iter().any(|text| text == "“Study laptop” is not connected"));
    scene.source.refuses.take();
    entry(&window).emit_activate();
    assert_eq!(entry(&window).text(), "");
    let sent = Act::SendText("study_laptop".into(), "Hello".into());
    assert_eq!(scene.source.acts.take(), [sent.clone(), sent]);
    // What is not connected takes neither text nor files, and says why.
    scene.source.devices.borrow_mut()[0].state = State::Gone { next_try: None };
    window.changed(&Change::Devices);
    let why = "“Study laptop” is not connected now";
    let attach = || shown(&window).into_iter().find(|widget| widget.tooltip_text().as_deref() == Some(why));
    until("the tooltip says why", || attach().is_some());
    entry(&window).set_text("Hello");
    entry(&window).emit_activate();
    assert_eq!((scene.source.acts.take(), entry(&window).text().as_str()), (vec![], "Hello"));
    stage::close(window);
}

fn files_that_are_dropped_or_pasted_are_sent(application: &adw::Application) {
    let scene = scene("talk");
    let window = stage::open(application, &scene);
    let list = |files: &[gio::File]| glib::BoxedValue(gtk4::gdk::FileList::from_array(files).to_value());
    // What is on another machine has no path here.
    let remote = gio::File::for_uri("sftp://elsewhere/c");
    let files = list(&[gio::File::for_path("/tmp/a"), gio::File::for_path("/tmp/ü b"), remote.clone()]);
    let sent = |device: &str| vec![Act::SendFiles(device.into(), vec!["/tmp/a".into(), "/tmp/ü b".into()])];
    let drop = |widget: &gtk4::Widget, files: &glib::BoxedValue| -> bool {
        let controllers = widget.observe_controllers();
        let mut controllers = controllers.iter::<glib::Object>().flatten();
        let target = controllers.find_map(|controller| controller.downcast::<gtk4::DropTarget>().ok());
        target.expect("a place to drop files on").emit_by_name("drop", &[files, &0.0, &0.0])
    };
    let find = |kind: &str, name: &str| {
        let here = |widget: &gtk4::Widget| texts(&widgets(widget)).iter().any(|text| text == name);
        let mut all = shown(&window).into_iter();
        all.find(|widget| widget.type_().name() == kind && here(widget)).unwrap_or_else(|| panic!("no {kind} {name}"))
    };

    assert!(drop(&find("NearTalk", "Study laptop"), &files));
    assert_eq!(scene.source.acts.take(), sent("study_laptop"));
    assert!(!drop(&find("NearTalk", "Study laptop"), &list(&[remote])));
    assert_eq!(scene.source.acts.take(), []);

    let clipboard = window.clipboard();
    clipboard.set(&files.0);
    WidgetExt::activate_action(&window, "win.paste", None).unwrap();
    until("the files are pasted", || !scene.source.acts.borrow().is_empty());
    assert_eq!(scene.source.acts.take(), sent("study_laptop"));
    clipboard.set_text("Hello");
    WidgetExt::activate_action(&window, "win.paste", None).unwrap();
    until("the text is pasted", || entry(&window).text() == "Hello");
    assert_eq!(scene.source.acts.take(), []);

    // On a name, it is for that device, which is shown then.
    assert!(drop(&find("NearDeviceRow", "Kitchen phone"), &files));
    assert_eq!(scene.source.acts.take(), sent("kitchen_phone"));
    find("NearTalk", "Kitchen phone");
    stage::close(window);
}

fn progress_is_said_once_a_second(application: &adw::Application) {
    let scene = scene("talk");
    let window = stage::open(application, &scene);
    let (mut said, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < Duration::from_millis(2500) {
        if let What::File(file) = &mut scene.source.lines.borrow_mut()[2].what {
            file.done += 1_000_000;
        }
        window.changed(&Change::Transfer(1));
        frames(&window, 1);
        said.extend(texts(&shown(&window)).into_iter().filter(|text| text.contains("MB/s")));
        said.dedup();
    }
    assert!((2..=4).contains(&said.len()), "{said:?}");
    // An end is said at once.
    if let What::File(file) = &mut scene.source.lines.borrow_mut()[2].what {
        file.state = TransferState::Sent;
    }
    window.changed(&Change::Transfer(1));
    frames(&window, 2);
    assert!(texts(&shown(&window)).iter().any(|text| text == "Sent — 1.4 GB"));
    stage::close(window);
}

fn a_long_text_is_shown_on_request(application: &adw::Application) {
    let scene = scene("talk-more");
    let window = stage::open(application, &scene);
    let longest = || texts(&shown(&window)).iter().map(String::len).max().unwrap();
    assert!(longest() < 4200, "{}", longest());
    assert_eq!(click(&scene, &button(&window, "Show All")), []);
    assert_eq!(longest(), 10_000);
    stage::close(window);
}

fn keys_are_those_of_the_table(application: &adw::Application) {
    let window = stage::open(application, &scene("talk"));
    for (action, key) in [
        ("win.address", "<Control>n"),
        ("win.files", "<Control>o"),
        ("win.paste", "<Control>v"),
        ("win.send", "<Control>Return"),
        ("win.previous", "<Alt>Up"),
        ("win.next", "<Alt>Down"),
        ("win.show-help-overlay", "<Control>question"),
        ("win.close", "<Control>w"),
        ("app.quit", "<Control>q"),
    ] {
        assert_eq!(application.accels_for_action(action), [key], "{action}");
    }
    let is_primary =
        |widget: &gtk4::Widget| widget.downcast_ref::<gtk4::MenuButton>().is_some_and(|button| button.is_primary());
    assert!(shown(&window).iter().any(is_primary), "F10 opens no menu");
    let here = |name: &str| texts(&shown(&window)).iter().filter(|text| *text == name).count() > 1;
    assert!(here("Study laptop"), "in the list and above the conversation");
    WidgetExt::activate_action(&window, "win.next", None).unwrap();
    until("the next device is shown", || here("Kitchen phone"));
    WidgetExt::activate_action(&window, "win.previous", None).unwrap();
    until("the one before is shown again", || here("Study laptop"));
    stage::close(window);
}

fn a_narrow_window_goes_back(application: &adw::Application) {
    let window = stage::open(application, &scene("narrow-talk"));
    let in_list = || texts(&shown(&window)).iter().any(|text| text == "Workshop");
    assert!(!in_list(), "the window is not narrow");
    let tooltip = |widget: &gtk4::Widget| widget.tooltip_text().as_deref() == Some("Back to the Devices");
    assert!(shown(&window).iter().any(tooltip), "no way back");
    WidgetExt::activate_action(&window, "win.back", None).unwrap();
    until("the list is shown", in_list);
    stage::close(window);
}

fn a_spinner_waits(application: &adw::Application) {
    let scene = scene("states");
    let window = stage::open(application, &scene);
    let spins = || shown(&window).iter().any(|widget| widget.is::<gtk4::Spinner>());
    until("the spinner turns", spins);
    scene.source.devices.borrow_mut()[4].state = State::NotPaired;
    window.changed(&Change::Devices);
    until("the spinner goes", || !spins());
    let begun = Instant::now();
    scene.source.devices.borrow_mut()[4].state = State::Connecting;
    window.changed(&Change::Devices);
    until("the spinner turns", spins);
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    stage::close(window);
}

fn a_device_that_goes_takes_its_row_along(application: &adw::Application) {
    let scene = scene("not-paired");
    let window = stage::open(application, &scene);
    let gone = scene.source.devices.borrow_mut().remove(1);
    window.changed(&Change::Devices);
    until("nobody is chosen", || texts(&shown(&window)).iter().any(|text| text == "Choose Somebody"));
    // It comes back as the first.
    scene.source.devices.borrow_mut().insert(0, gone);
    window.changed(&Change::Devices);
    let names = || {
        let rows = shown(&window).into_iter().filter(|widget| widget.is::<gtk4::ListBoxRow>());
        rows.filter_map(|row| texts(&widgets(&row)).get(1).cloned()).collect::<Vec<_>>()
    };
    until("it is the first", || names().first().is_some_and(|name| name == "Kitchen phone") && names().len() == 3);
    stage::close(window);
}
