//! A plugin of a program in C, which `tests/background_plugin.rs` loads and unloads.

#![allow(unsafe_code, missing_docs)]

use network::Server;

/// Listens on the default main context, and does not stop.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_start() -> i32 {
    match Server::builder().tls(false).address("127.0.0.1").listen(0, |socket| socket.sendline("hello")) {
        Ok(server) => {
            server.detach();
            server.port().into()
        }
        Err(_) => -1,
    }
}
