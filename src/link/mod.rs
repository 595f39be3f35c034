// `Link`: one handle that stays connected. It connects, passes each connection to the program, and connects again after its end.
//
// | to find | look into |
// |---|---|
// | what follows what | `machine`: a value, with a clock and dice handed in |
// | how long to wait | `backoff` |
// | connections, the timer, services | `driver` |
// | calls of the program | `telling` |
// | data that waits | `queue` |
// | changes of the network | `watch` |
// | requests that wait for their answers | `calls` |
// | the handle, and what the program sees of it; options | `handle`; `builder` |

mod backoff;
mod builder;
mod calls;
mod driver;
pub(crate) mod handle;
mod machine;
mod queue;
mod telling;
pub(crate) mod watch;

pub use backoff::Backoff;
pub use builder::LinkBuilder;
pub use calls::{Answer, Calls};
pub(crate) use driver::close_all;
pub use handle::{Down, State, WeakLink};
pub use watch::{NetworkChange, NetworkWatch};
