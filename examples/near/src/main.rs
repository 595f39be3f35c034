//! Starts "Near", with its window or without.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use gio::prelude::ApplicationExt;
use near::command_line::{self, Request, Start};
use near::near::{Near, Options};
use near::script;

/// The usual code for a command line that is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let downloads = glib::user_special_dir(glib::UserDirectory::Downloads).unwrap_or_else(glib::home_dir);
    let defaults = Options { data: glib::user_data_dir().join("near"), name: None, port: 1716, downloads };
    match command_line::parse(std::env::args_os().skip(1), defaults) {
        Ok(Request::Start(start)) if start.headless => without_window(start),
        Ok(Request::Start(start)) => with_window(start),
        Ok(Request::Print(text)) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(why) => {
            eprintln!("near: {why}\nnear --help lists the options.");
            ExitCode::from(USAGE)
        }
    }
}

fn with_window(Start { options, script, .. }: Start) -> ExitCode {
    // Each start is one of its own: a second one finds the port taken, and says so.
    let flags = gio::ApplicationFlags::NON_UNIQUE;
    let application = adw::Application::builder().application_id("org.example.Near").flags(flags).build();
    application.connect_activate(move |application| {
        let near = Near::open(options.clone());
        if let (Ok(near), Some(script)) = (&near, &script) {
            let application = application.clone();
            script::run(near, script.clone(), move || application.quit());
        }
        near::ui::open(application, near);
    });
    gio::prelude::ApplicationExtManual::run_with_args::<&str>(&application, &[]);
    ExitCode::SUCCESS
}

fn without_window(Start { options, script, .. }: Start) -> ExitCode {
    match Near::open(options) {
        Ok(near) => {
            // Without commands it still shows what happens.
            let script = script.unwrap_or_else(|| vec!["wait /nowhere/never".into()]);
            script::run(&near, script, network::endloop);
            network::fgloop();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("near: {error}");
            ExitCode::FAILURE
        }
    }
}
