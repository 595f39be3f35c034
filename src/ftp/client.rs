//! The handle of a session, with three faces of each operation.

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use gio::prelude::*;

use super::builder::Builder;
use super::commands::{DirectoryResponse, ListingResponse};
use super::listing::Entry;
use super::manner::{Manner, now};
use super::reader::Reader;
use super::session::Session;
use super::transfer::Transfer;
use crate::conn::Socket;
use crate::error::Result;
use crate::error::ftp::Response;

/// A session with an FTP server. Clones are handles of the same session.
///
/// Each operation has three faces: `login` blocks, `login_async` calls back once from the main loop, and `login_future` is
/// awaited. Operations run one after the other, in the order of their calls; a blocking one while another is in progress on
/// the main loop is [`Error::Unsupported`](crate::Error::Unsupported). Dropping a future or cancelling gives an operation up, and the
/// session stays usable: the next operation first sees to the replies that are still to come. The session ends when the last
/// handle is dropped.
///
/// Names are passed as text or as bytes, since servers have names that are no UTF-8. CR, LF, NUL and 0xFF in an argument are
/// [`Error::InvalidOption`](crate::Error::InvalidOption).
///
/// # Errors
/// Of all operations:
/// - [`Error::Ftp`](crate::Error::Ftp): the server refuses. [`Error::ftp_status`](crate::Error::ftp_status) returns the status of any
///   error.
/// - [`Error::Closed`](crate::Error::Closed) or [`Error::Reset`](crate::Error::Reset): the session has ended.
/// - [`Error::TimedOut`](crate::Error::TimedOut): the server is silent for 60 seconds, or what the [`Builder`] sets.
///
/// # Example: Download a file
/// ```no_run
/// use network::ftp;
///
/// let client = ftp::Client::connect("ftp.example.org")?;
/// client.login("user", "password")?;
/// client.download("pub/README", "README").progress(|progress| println!("{}", progress.done)).send()?;
/// client.disconnect()?;
/// # Ok::<(), network::Error>(())
/// ```
#[derive(Clone)]
pub struct Client(Rc<Session>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.0.peer_text()).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(session: Rc<Session>) -> Self {
        Client(session)
    }

    /// Returns a builder.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Connects and receives the greeting. **Blocks**.
    ///
    /// `host`, `host:port` and `ftpes://host` use TLS by AUTH TLS, `ftps://host` uses TLS from the beginning (port 990), and
    /// `ftp://host` none. TLS is never given up for a server without it.
    ///
    /// # Errors
    /// - As [`Socket::connect`].
    /// - [`Error::Ftp`](crate::Error::Ftp): the server refuses, or does not speak FTP.
    /// - [`Error::Unsupported`](crate::Error::Unsupported): the server has no TLS. The text says what to do.
    pub fn connect(address: impl AsRef<str>) -> Result<Client> {
        Self::builder().connect(address)
    }

    /// Connects in the background and calls back once. See [`connect`](Self::connect).
    pub fn connect_async(
        address: impl AsRef<str>,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<Client>) + 'static,
    ) {
        Self::builder().connect_async(address, cancellable, callback);
    }

    /// Connects in the background. Dropping the future cancels.
    ///
    /// # Errors
    /// See [`connect`](Self::connect).
    pub fn connect_future(address: impl AsRef<str>) -> impl Future<Output = Result<Client>> + 'static {
        Self::builder().connect_future(address)
    }

    /// Returns the greeting of the server.
    pub fn greeting(&self) -> Response {
        self.0.greeting()
    }

    /// Returns the control connection, to look at its certificate or addresses. Reading from it or writing to it breaks the
    /// session.
    pub fn socket(&self) -> &Socket {
        &self.0.control
    }

    /// Interrupts the transfer that is in progress, which then fails with [`Error::Cancelled`](crate::Error::Cancelled). The
    /// session stays usable. Returns at once, and has no effect without a transfer.
    pub fn abort(&self) {
        if self.0.data.borrow().is_some() {
            self.0.is_aborted.set(true);
            self.0.drop_data();
        }
    }

    // ---- transfers ----

    /// Prepares the download of a file. A `local` that is a directory or ends in `/` gets the name of the remote file.
    ///
    /// Until it is complete, the file is called `NAME.part`, and one of that name is overwritten. It takes the place of an older
    /// file then, or of the file that a link leads to; anything else there, as a device, is an error. A download that fails
    /// leaves the partial file, for [`resume`](Transfer::resume).
    ///
    /// # Example: With a progress bar, on the main loop
    /// ```no_run
    /// # fn example(client: &network::ftp::Client, show: impl Fn(Option<f64>) + 'static) {
    /// client
    ///     .download("pub/image.iso", "/tmp/")
    ///     .resume(true)
    ///     .progress(move |progress| show(progress.fraction()))
    ///     .send_async(gio::Cancellable::NONE, |result| match result {
    ///         Ok(response) => println!("{response}"),
    ///         Err(error) => eprintln!("{error}"),
    ///     });
    /// # }
    /// ```
    pub fn download(&self, remote: impl AsRef<[u8]>, local: impl AsRef<Path>) -> Transfer {
        Transfer::download(&self.0, remote.as_ref(), local.as_ref())
    }

    /// Prepares the download of a file to a writer. What is written before a failure has been written.
    pub fn download_to(&self, remote: impl AsRef<[u8]>, writer: impl Write + 'static) -> Transfer {
        Transfer::download_to(&self.0, remote.as_ref(), Box::new(writer))
    }

    /// Prepares the upload of a file. A `remote` that ends in `/` gets the name of the local file.
    pub fn upload(&self, local: impl AsRef<Path>, remote: impl AsRef<[u8]>) -> Transfer {
        Transfer::upload(&self.0, local.as_ref(), remote.as_ref(), false)
    }

    /// Prepares the upload from a reader, which must not block for long. If `length` is given, a source with more or less fails
    /// with [`Error::Ftp`](crate::Error::Ftp).
    pub fn upload_from(
        &self,
        reader: impl Read + 'static,
        length: impl Into<Option<u64>>,
        remote: impl AsRef<[u8]>,
    ) -> Transfer {
        Transfer::upload_from(&self.0, Box::new(reader), length.into(), remote.as_ref())
    }

    /// Prepares the upload of a file to the end of a remote one, which is created if it does not exist.
    pub fn append(&self, local: impl AsRef<Path>, remote: impl AsRef<[u8]>) -> Transfer {
        Transfer::upload(&self.0, local.as_ref(), remote.as_ref(), true)
    }

    /// Opens a remote file as a byte stream. The session is in use until the stream has ended or is dropped.
    ///
    /// # Errors
    /// See [above](Self#errors).
    pub fn read_future(&self, remote: impl AsRef<[u8]>) -> impl Future<Output = Result<Reader>> + 'static {
        Reader::open(self.0.clone(), remote.as_ref().to_vec())
    }

    // ---- any command ----

    /// Sends any command and returns its reply, also one that refuses. **Blocks**.
    ///
    /// For commands without a data connection, as `SITE` or `STAT`.
    ///
    /// # Errors
    /// See [above](Self#errors).
    ///
    /// # Example
    /// ```no_run
    /// # fn example(client: &network::ftp::Client) -> network::Result {
    /// let response = client.command("SITE", Some("CHMOD 644 README"))?;
    /// assert!(response.ok(), "{response}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn command(&self, name: &str, argument: Option<&str>) -> Result<Response> {
        now(self.0.clone().any_command(Manner::Blocks, name.to_owned(), argument.map(|text| text.as_bytes().to_vec())))
    }

    /// Sends any command in the background and calls back once. See [`command`](Self::command).
    pub fn command_async(
        &self,
        name: &str,
        argument: Option<&str>,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<Response>) + 'static,
    ) {
        self.0.call_back(self.command_future(name, argument), cancellable, callback);
    }

    /// Sends any command in the background. See [`command`](Self::command).
    ///
    /// # Errors
    /// See [above](Self#errors).
    pub fn command_future(
        &self,
        name: &str,
        argument: Option<&str>,
    ) -> impl Future<Output = Result<Response>> + 'static {
        let argument = argument.map(|text| text.as_bytes().to_vec());
        self.0.clone().any_command(Manner::Polls, name.to_owned(), argument)
    }
}

/// Declares the three faces of operations.
macro_rules! faces {
    ($(
        $(#[$doc:meta])*
        $blocking:ident, $calling_back:ident, $awaited:ident: $operation:ident($($argument:ident),*) -> $output:ty;
    )*) => {
        /// # Operations
        impl Client { $(
            $(#[$doc])*
            ///
            /// **Blocks** until the server has replied. See [above](Self#errors) for the errors.
            pub fn $blocking(&self $(, $argument: impl AsRef<[u8]>)*) -> Result<$output> {
                now(self.0.clone().$operation(Manner::Blocks $(, $argument.as_ref().to_vec())*))
            }

            #[doc = concat!("Calls back once with the result of [`", stringify!($blocking), "`](Self::", stringify!($blocking), ").")]
            pub fn $calling_back(
                &self,
                $($argument: impl AsRef<[u8]>,)*
                cancellable: Option<&impl IsA<gio::Cancellable>>,
                callback: impl FnOnce(Result<$output>) + 'static,
            ) {
                let operation = self.0.clone().$operation(Manner::Polls $(, $argument.as_ref().to_vec())*);
                self.0.call_back(operation, cancellable, callback);
            }

            #[doc = concat!("Awaits the result of [`", stringify!($blocking), "`](Self::", stringify!($blocking), ").")]
            pub fn $awaited(
                &self
                $(, $argument: impl AsRef<[u8]>)*
            ) -> impl Future<Output = Result<$output>> + 'static {
                self.0.clone().$operation(Manner::Polls $(, $argument.as_ref().to_vec())*)
            }
        )* }
    };
}

faces! {
    /// Logs in. Over TLS, data connections are protected from then on; a server that refuses that ends the session.
    login, login_async, login_future: login(user, password) -> Response;

    /// Logs in as `anonymous`.
    login_anonymous, login_anonymous_async, login_anonymous_future: login_anonymous() -> Response;

    /// Ends the session.
    disconnect, disconnect_async, disconnect_future: disconnect() -> Response;

    /// Sends a command without effect, so that the server does not end an idle session.
    keep_alive, keep_alive_async, keep_alive_future: keep_alive() -> Response;

    /// Returns the working directory.
    working_directory, working_directory_async, working_directory_future: working_directory() -> DirectoryResponse;

    /// Returns the names in a directory, or in the working directory if `path` is empty.
    ///
    /// Servers answer 550 for an empty directory as well as for a missing one. That is no error: there are no names, and
    /// the response has this status.
    directory_listing, directory_listing_async, directory_listing_future: directory_listing(path) -> ListingResponse;

    /// Returns the entries of a directory, or of the working directory if `path` is empty, with what the server tells about
    /// them: by MLSD (RFC 3659) if it has that, else by LIST in the formats of `ls`, `dir` and EPLF.
    list, list_async, list_future: list(path) -> Vec<Entry>;

    /// Changes the working directory.
    change_directory, change_directory_async, change_directory_future: change_directory(path) -> Response;

    /// Changes the working directory to its parent.
    parent_directory, parent_directory_async, parent_directory_future: parent_directory() -> Response;

    /// Creates a directory.
    create_directory, create_directory_async, create_directory_future: create_directory(path) -> Response;

    /// Deletes a directory, which most servers require to be empty.
    delete_directory, delete_directory_async, delete_directory_future: delete_directory(path) -> Response;

    /// Renames or moves a file.
    rename_file, rename_file_async, rename_file_future: rename_file(from, to) -> Response;

    /// Deletes a file.
    delete_file, delete_file_async, delete_file_future: delete_file(path) -> Response;

    /// Returns the size of a file in bytes.
    size, size_async, size_future: size(path) -> u64;

    /// Returns the time of the last change of a file.
    modified, modified_async, modified_future: modified(path) -> SystemTime;

    /// Returns the features of the server (RFC 2389), one a line. Empty if it tells none.
    features, features_async, features_future: feature_lines() -> Vec<String>;
}
