// The public documentation of the module is in lib.rs. From the bottom up:
//
// | file | content |
// |---|---|
// | reply, words, listing, time, ascii | pure: what stands in replies, arguments, listings and texts |
// | turns | who waits for the session |
// | manner | blocking calls and futures, by one name each |
// | session | the control connection: commands, replies, login, features |
// | data | data connections: passive, active, TLS |
// | local | files on this side |
// | transfer, reader | files on their way |
// | commands | what the methods of the client do |
// | builder, client | the face |

mod ascii;
mod builder;
mod client;
mod commands;
mod data;
mod listing;
mod local;
mod manner;
mod reader;
mod reply;
mod session;
mod time;
mod transfer;
mod turns;
mod words;

pub use crate::error::ftp::{Response, Status};
pub use builder::{Builder, Security};
pub use client::Client;
pub use commands::{DirectoryResponse, ListingResponse};
#[cfg(any(test, fuzzing))]
pub(crate) use listing::check as check_listing;
pub use listing::{Entry, Kind, Name};
pub use reader::Reader;
#[cfg(any(test, fuzzing))]
pub(crate) use reply::check as check_replies;
pub use transfer::{Progress, Transfer};
#[cfg(any(test, fuzzing))]
pub(crate) use words::check as check_words;

/// The representation of a file on the way (RFC 959, section 3.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// As they are.
    #[default]
    Binary,
    /// As text: `\n` here, `\r\n` on the way, and whatever the server uses there.
    Ascii,
    /// As text in EBCDIC. Most servers refuse, which is the error of the transfer then. Nothing is converted here.
    Ebcdic,
}

impl Mode {
    fn letter(self) -> &'static [u8] {
        match self {
            Mode::Binary => b"I",
            Mode::Ascii => b"A",
            Mode::Ebcdic => b"E",
        }
    }
}
