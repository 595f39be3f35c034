//! The callback that a connection's input goes to.

/// The kind of input that a read callback gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Data, as it comes.
    Data,
    /// Lines, as text.
    Lines,
    /// Lines, as bytes: the same call as data.
    ByteLines,
    /// Frames: the same call as data.
    Frames,
    /// Word that there is something.
    Raw,
}

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Marks: u8 {
        const PAUSED = 1;
        const KEPT = 1 << 1;
    }
}

/// The reader, if there is one, and whether it is given anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::conn) struct Delivery {
    pub(in crate::conn) reader: Option<Kind>,
    marks: Marks,
}

impl Delivery {
    pub(in crate::conn) fn has_reader(self) -> bool {
        self.reader.is_some()
    }

    /// Returns whether there is a reader, and it is given what comes.
    pub(in crate::conn) fn delivers(self) -> bool {
        self.has_reader() && !self.is_paused()
    }

    pub(in crate::conn) fn is_paused(self) -> bool {
        self.marks.contains(Marks::PAUSED)
    }

    /// Pauses or resumes. Returns how it was.
    pub(in crate::conn) fn set_paused(&mut self, paused: bool) -> bool {
        let was = self.is_paused();
        self.marks.set(Marks::PAUSED, paused);
        was
    }

    /// The loop keeps the connection for its reader, or no longer does. Returns how it was.
    pub(in crate::conn) fn set_kept(&mut self, kept: bool) -> bool {
        let was = self.marks.contains(Marks::KEPT);
        self.marks.set(Marks::KEPT, kept);
        was
    }

    pub(in crate::conn) fn remove_reader(&mut self) {
        self.reader = None;
    }
}
