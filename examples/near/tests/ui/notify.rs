//! What is told while the window is not in front: on a bus of the test's own, with a service that takes notifications.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;

use adw::prelude::*;
use near::near::{Change, State, What};

use super::checks::Test;
use super::scenes::{self, line};
use super::stage::{self, until};
use super::{INNER, common};

pub const ALL: &[Test] = &[("a_window_behind_notifies", a_window_behind_notifies)];

const NAME: &str = "org.freedesktop.Notifications";
const SERVICE: &str = r#"<node><interface name="org.freedesktop.Notifications">
    <method name="Notify">
        <arg direction="in" type="s"/><arg direction="in" type="u"/><arg direction="in" type="s"/>
        <arg direction="in" type="s"/><arg direction="in" type="s"/><arg direction="in" type="as"/>
        <arg direction="in" type="a{sv}"/><arg direction="in" type="i"/><arg direction="out" type="u"/>
    </method>
    <method name="CloseNotification"><arg direction="in" type="u"/></method>
</interface></node>"#;

fn a_window_behind_notifies(_: &adw::Application) {
    let directory = common::TempDir::new();
    let config = directory.path("bus.conf");
    std::fs::write(
        &config,
        format!(
            "<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/><allow user=\"*\"/>\
             </policy></busconfig>",
            directory.path("bus").display()
        ),
    )
    .unwrap();
    let mut bus = Command::new(common::parties::party("dbus-daemon"));
    bus.arg(format!("--config-file={}", config.display())).args(["--nofork", "--nopidfile", "--print-address=1"]);
    let mut bus = bus.stdout(Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let mut inner = Command::new(std::env::current_exe().unwrap());
    let status = inner.env(INNER, "notify").env("DBUS_SESSION_BUS_ADDRESS", address.trim()).status().unwrap();
    bus.kill().unwrap();
    bus.wait().unwrap();
    assert!(status.success());
}

/// What was sent to the service, in its order.
#[derive(Debug, PartialEq)]
enum Told {
    /// Its number, the one that it replaces, title and text.
    Shown(u32, u32, String, String),
    Withdrawn(u32),
}

/// What the process on that bus does.
pub fn inside() -> ExitCode {
    let connection = gio::bus_get_sync(gio::BusType::Session, gio::Cancellable::NONE).unwrap();
    let told: Rc<RefCell<Vec<Told>>> = Rc::default();
    let (seen, count, node) = (told.clone(), Cell::new(0), gio::DBusNodeInfo::for_xml(SERVICE).unwrap());
    let interface = node.lookup_interface(NAME).unwrap();
    let service = connection.register_object("/org/freedesktop/Notifications", &interface);
    let service = service.method_call(move |_, _, _, _, method, given, invocation| {
        if method == "Notify" {
            let (replaced, text) = (given.child_value(1).get().unwrap(), |at| given.child_value(at).get().unwrap());
            if replaced == 0 {
                count.set(count.get() + 1);
            }
            let number = if replaced == 0 { count.get() } else { replaced };
            seen.borrow_mut().push(Told::Shown(number, replaced, text(3), text(4)));
            return invocation.return_value(Some(&(number,).to_variant()));
        }
        seen.borrow_mut().push(Told::Withdrawn(given.child_value(0).get().unwrap()));
        invocation.return_value(None);
    });
    service.build().unwrap();
    let owner = gio::bus_own_name_on_connection(
        &connection,
        NAME,
        gio::BusNameOwnerFlags::NONE,
        |_, _| {},
        |_, _| panic!("the name is taken"),
    );

    adw::init().expect("a display");
    let flags = gio::ApplicationFlags::NON_UNIQUE;
    let application = adw::Application::builder().application_id("org.example.Near").flags(flags).build();
    application.register(gio::Cancellable::NONE).unwrap();
    let scene = scenes::all().into_iter().find(|scene| scene.name == "talk").unwrap();
    let window = stage::open(&application, &scene);
    let other = gtk4::Window::new();
    other.present();
    until("another window is in front", || !window.is_active());
    let shown = |number, replaces, title: &str, text: &str| Told::Shown(number, replaces, title.into(), text.into());

    // All that was asked of the service before is done, and its replies are here.
    let settle = || {
        let bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.Peer");
        let (flags, none) = (gio::DBusCallFlags::NONE, gio::Cancellable::NONE);
        connection.call_sync(Some(bus.0), bus.1, bus.2, "Ping", None, None, flags, -1, none).unwrap();
        while glib::MainContext::default().pending() {
            glib::MainContext::default().iteration(false);
        }
    };
    let say = |ours, what| {
        scene.source.lines.borrow_mut().push(line(20, ours, what));
        let index = scene.source.lines.borrow().len() - 1;
        window.changed(&Change::Line { device: "study_laptop".into(), index });
    };
    say(true, What::Text("of ours".into()));
    say(false, What::Text("Hello".into()));
    until("the text is told", || told.borrow().len() == 1);
    assert_eq!(told.take(), [shown(1, 0, "Study laptop", "Hello")]);
    settle();
    // One for each device.
    say(false, What::Ping("Are you there?".into()));
    until("the ping is told", || told.borrow().len() == 1);
    assert_eq!(told.take(), [shown(1, 1, "Study laptop", "Ping Are you there?")]);

    let ask = |state: State| {
        scene.source.devices.borrow_mut()[1].state = state;
        window.changed(&Change::Devices);
    };
    ask(State::Pairing(scenes::asked()));
    until("the request is told", || told.borrow().len() == 1);
    assert_eq!(told.take(), [shown(2, 0, "“Kitchen phone” wants to pair", "Answer in the window of Near.")]);
    // Somebody who has answered, or has not, is not told of it any more.
    ask(State::NotPaired);
    until("the notification goes", || told.borrow().len() == 1);
    assert_eq!(told.take(), [Told::Withdrawn(2)]);

    // A click on it brings up the conversation.
    application.activate_action("device", Some(&"workshop".to_variant()));
    until("it is shown", || {
        stage::texts(&stage::shown(&window)).iter().filter(|text| *text == "Workshop").count() == 2
    });

    // What can be seen is not notified.
    other.destroy();
    window.present();
    until("the window is in front", || window.is_active());
    say(false, What::Text("Hello again".into()));
    settle();
    assert_eq!(told.take(), []);
    stage::close(window);
    gio::bus_unown_name(owner);
    ExitCode::SUCCESS
}
