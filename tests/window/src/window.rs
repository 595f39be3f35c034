//! The window: something moves in it, and each frame that is painted is noted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glib::ControlFlow;
use gtk4::prelude::*;

/// What was painted within a time.
pub struct Frames {
    pub count: usize,
    /// Between two frames, or one and the beginning or end of the time.
    pub longest: Duration,
}

pub struct Window {
    // GTK keeps it; this says whose it is.
    _window: gtk4::Window,
    painted: Rc<RefCell<Vec<Instant>>>,
}

impl Window {
    /// Opens it, and waits until it paints.
    pub fn open() -> Window {
        gtk4::init().expect("a display");
        let area = gtk4::DrawingArea::builder().content_width(320).content_height(240).build();
        let painted = Rc::<RefCell<Vec<Instant>>>::default();
        let times = painted.clone();
        area.set_draw_func(move |_, cairo, width, height| {
            let mut times = times.borrow_mut();
            let at = times.len() as f64 / 60.0 % 1.0;
            cairo.set_source_rgb(0.2, 0.5, 0.8);
            cairo.rectangle(at * f64::from(width), 0.0, 10.0, f64::from(height));
            cairo.fill().unwrap();
            times.push(Instant::now());
        });
        area.add_tick_callback(|area, _| {
            area.queue_draw();
            ControlFlow::Continue
        });
        let window = gtk4::Window::builder().child(&area).decorated(false).build();
        window.present();
        let window = Window { _window: window, painted };
        while window.painted.borrow().len() < 30 {
            glib::MainContext::default().iteration(true);
        }
        window
    }

    /// Runs the main loop for so long.
    pub fn watch(&self, time: Duration) -> Frames {
        let main = glib::MainLoop::new(None, false);
        let end = main.clone();
        glib::source::timeout_add_local_full(time, glib::Priority::HIGH, move || {
            end.quit();
            ControlFlow::Break
        });
        self.painted.borrow_mut().clear();
        let begun = Instant::now();
        main.run();
        let painted = self.painted.borrow();
        let ends = painted.iter().copied().chain([Instant::now()]);
        let mut last = begun;
        let intervals = ends.map(|time| time - std::mem::replace(&mut last, time));
        Frames { count: painted.len(), longest: intervals.max().unwrap_or(time) }
    }
}
