//! A line server that goes into the background: `daemon 1234 && client`. The client needs no pause before it: when the
//! command is back, connections are accepted. SIGTERM ends it.

fn main() -> std::process::ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: daemon ADDRESS");
        return std::process::ExitCode::FAILURE;
    };
    match serve(&address) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("daemon: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> network::Result {
    let server = network::Server::new(address, |socket| {
        // Who wants to stop it needs to know which process it is.
        socket.sendline(format!("daemon {}", std::process::id()))?;
        socket.readlines(|socket, line| socket.sendline(format!("You said: {line}")));
        Ok(())
    })?;
    println!("listening on port {}", server.port());
    network::bgloop()
}
