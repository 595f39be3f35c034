//! A window that downloads a file and shows how far it is: `gtk_download [URL [FILE]]`. The window never waits for the network. Cancel and
//! closing the window keep what has come as FILE.part, and the next download of the same file goes on from there.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use gio::prelude::*;
use gtk4::prelude::*;
use network::http::Client;

fn main() -> glib::ExitCode {
    let application = gtk4::Application::builder()
        .application_id("org.example.Download")
        .flags(gio::ApplicationFlags::NON_UNIQUE | gio::ApplicationFlags::HANDLES_COMMAND_LINE)
        .build();
    application.connect_command_line(|application, line| {
        let arguments = line.arguments();
        let text = |at: usize| arguments.get(at).map(|argument| argument.to_string_lossy().into_owned());
        open(application, text(1), text(2));
        glib::ExitCode::SUCCESS
    });
    application.run()
}

/// The parts of the window that change.
struct View {
    url: gtk4::Entry,
    file: gtk4::Entry,
    bar: gtk4::ProgressBar,
    button: gtk4::Button,
    /// Of the download that runs.
    cancel: RefCell<Option<gio::Cancellable>>,
}

fn open(application: &gtk4::Application, url: Option<String>, file: Option<String>) {
    let at_once = url.is_some();
    let entry = |text: Option<String>, hint| {
        gtk4::Entry::builder().text(text.unwrap_or_default()).placeholder_text(hint).hexpand(true).build()
    };
    let view = Rc::new(View {
        url: entry(url, "https://…"),
        file: entry(file, "Save as; default: the name in the URL"),
        bar: gtk4::ProgressBar::builder().show_text(true).text("Nothing to do").build(),
        button: gtk4::Button::with_label("Download"),
        cancel: RefCell::default(),
    });
    let content = gtk4::Box::builder().orientation(gtk4::Orientation::Vertical).spacing(12).build();
    for (widget, margin) in [
        (view.url.upcast_ref::<gtk4::Widget>(), 12),
        (view.file.upcast_ref(), 0),
        (view.bar.upcast_ref(), 0),
        (view.button.upcast_ref(), 12),
    ] {
        widget.set_margin_start(12);
        widget.set_margin_end(12);
        widget.set_margin_top(margin);
        content.append(widget);
    }
    content.set_margin_bottom(12);
    let window = gtk4::ApplicationWindow::builder()
        .application(application)
        .title("Download")
        .default_width(480)
        .child(&content)
        .build();

    let of_button = Rc::downgrade(&view);
    view.button.connect_clicked(move |_| {
        if let Some(view) = of_button.upgrade() {
            view.start_or_cancel();
        }
    });
    // The window owns the view; closing it cancels.
    let of_window = view.clone();
    window.connect_close_request(move |_| {
        of_window.cancel();
        glib::Propagation::Proceed
    });
    window.present();
    if at_once {
        view.start_or_cancel();
    }
}

impl View {
    fn cancel(&self) -> bool {
        self.cancel.borrow().as_ref().map(|cancel| cancel.cancel()).is_some()
    }

    fn start_or_cancel(self: &Rc<Self>) {
        if self.cancel() {
            return;
        }
        let url = self.url.text();
        let file = match self.file.text() {
            name if name.is_empty() => {
                PathBuf::from(url.trim_end_matches('/').rsplit('/').next().unwrap_or("download"))
            }
            name => PathBuf::from(name.as_str()),
        };
        let cancel = gio::Cancellable::new();
        self.cancel.replace(Some(cancel.clone()));
        self.button.set_label("Cancel");
        self.bar.set_text(Some("Connecting"));

        let bar = self.bar.clone();
        let (view, saved) = (self.clone(), file.display().to_string());
        Client::shared()
            .get(&url)
            .resume(true)
            .progress(move |progress| {
                match progress.fraction() {
                    Some(part) => bar.set_fraction(part),
                    None => bar.pulse(),
                }
                bar.set_text(Some(&glib::format_size(progress.received)));
            })
            .download_async(file, Some(&cancel), move |result| {
                view.bar.set_text(Some(&match result {
                    Ok(response) => format!("Saved {} as {saved}", response.url()),
                    Err(error) => error.to_string(),
                }));
                view.cancel.take();
                view.button.set_label("Download");
            });
    }
}
