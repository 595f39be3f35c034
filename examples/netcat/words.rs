//! Translates what the library's errors say of its calls into this program's options.

/// Words of the library's, and what a user of this program does in their place.
pub const WORDS: [(&str, &str); 14] = [
    ("connect with tls(false) or to tcp://host:port", "use --tls off"),
    ("and tls(false) turns it off", "and --tls off and --starttls begin in plaintext"),
    ("unless tls(false) is set", "unless --tls off is given"),
    ("use TLS in the client or tls(false) in the server", "the client should use TLS, or this side --tls off"),
    ("remove the file, or set replace_stale(true)", "remove the file"),
    (
        "pass the targets of names::lookup_service to connect, or use Proxy::none()",
        "give the host and port of one of the targets, or leave --proxy away",
    ),
    (" with Socket::start_tls later,", ""),
    ("or use ClientTls::pinned", "or use --tls pin:HEX"),
    ("pass it to ClientTls::pinned", "use it with --tls pin:"),
    (" (set one with ClientTls::server_name)", ""),
    (" (ServerTls::allow)", " (--require-client)"),
    ("set one with ClientTls::identity", "use --cert and --key"),
    (" (Proxy::tls sets whom to trust)", ""),
    (" (Proxy::reply_limit)", ""),
];

/// Rewords a message.
pub fn in_options(text: &str) -> String {
    WORDS.iter().fold(text.replace('\n', " "), |text, (calls, options)| text.replace(calls, options))
}
