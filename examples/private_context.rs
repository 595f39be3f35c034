//! A private main context, as for a test that runs beside others: sources of the default context do not run in it, and the
//! servers and sockets created in it end with it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The program takes no arguments.
    clap::Command::new("private_context").get_matches();
    let context = glib::MainContext::new();
    context.with_thread_default(|| -> network::Result {
        let server = network::Server::builder().address("127.0.0.1").listen(0, |socket| {
            socket.readlines(|socket, line| socket.sendline(line.to_uppercase()));
            Ok(())
        })?;
        let address = ("127.0.0.1", server.port());
        network::Socket::connect_async(address, gio::Cancellable::NONE, |result| {
            let client = match result {
                Ok(client) => client,
                Err(error) => panic!("{error}"),
            };
            // A read callback keeps the connection open; it receives the socket as its argument.
            client.readlines(|_, line| {
                say(line);
                network::endloop();
                Ok(())
            });
            let _ = client.sendline("hello from a private context");
        });
        network::fgloop();
        Ok(())
    })??;
    Ok(())
}

/// Prints a line. Nobody reads any more: ends, as other filters do.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;

    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
