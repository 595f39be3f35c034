//! Links for scripts, which have no loop of their own.

use super::block_on;
use super::mainloop::iteration;
use crate::conn::Socket;
use crate::error::Result;
use crate::link::handle::Link;

/// The loop notices and tells an end in fewer turns.
const TURNS: u32 = 16;

impl Link {
    /// Waits until there is a connection, and returns it: at once if there is one.
    ///
    /// For scripts, which use blocking calls and connect again when one of them fails. What such a call has found to be at its end is
    /// not returned again. The main loop runs meanwhile, as in [`block_on`](crate::block_on), so callbacks are called.
    ///
    /// # Blocking
    /// Until there is a connection, or the link is over. A script sets [`attempts`](crate::link::LinkBuilder::attempts) or
    /// [`give_up_after`](crate::link::LinkBuilder::give_up_after).
    ///
    /// # Errors
    /// Those of [`up_future`](Link::up_future) and of [`block_on`](crate::block_on).
    ///
    /// # Example
    /// ```no_run
    /// use network::Link;
    ///
    /// let link = Link::builder().attempts(5).start("localhost:1234", |socket| socket.sendline("SUBSCRIBE"))?;
    /// loop {
    ///     let socket = link.reconnect()?;
    ///     while let Ok(line) = socket.recv_line() {
    ///         println!("{line}");
    ///     }
    /// }
    /// # #[allow(unreachable_code)]
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn reconnect(&self) -> Result<Socket> {
        // Whoever has heard of an end by a blocking call is ahead of the loop, which is not to go on for ever.
        let _rest = (0..TURNS).find(|_| !iteration(false));
        block_on(self.up_future())?
    }
}
