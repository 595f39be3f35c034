//! Replies: files, ranges, streams, cookies, redirects, unix sockets and TLS.

use std::fs;
use std::time::{Duration, SystemTime};

use network::http::{Client, ClientBuilder, Reply, Server};
use network::socket::Proxy;
use network::{Error, ServerTls};

use super::curl;
use super::raw::Raw;
use crate::common::{TempDir, await_it, beside, noise, on_own_context, tool};

#[test]
fn files_ranges_and_conditions() {
    on_own_context(|| {
        let directory = TempDir::new();
        let (file, copy, url_file) = (directory.path("a.html"), directory.address("copy"), directory.path("a.html"));
        let content = noise(3 << 20, 7);
        fs::write(&file, &content).unwrap();
        fs::write(directory.path("empty.txt"), "").unwrap();
        let (empty, pipe, missing) = (directory.path("empty.txt"), directory.path("pipe"), directory.path("missing"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        let server = Server::builder()
            .get("/a", move |request| Reply::file(&url_file, request))
            .get("/empty", move |request| Reply::file(&empty, request))
            .get("/pipe", move |request| Reply::file(&pipe, request))
            .get("/missing", move |request| Reply::file(&missing, request))
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let url = format!("{}a", server.url());
        let head = beside(|| curl(["-D", "-", "-o", &copy, &url]));
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-type: text/html; charset=utf-8\r\n"),
            "{head}"
        );
        assert!(head.contains("content-length: 3145728\r\n") && head.contains("accept-ranges: bytes\r\n"), "{head}");
        assert!(head.contains("last-modified: "), "{head}");
        assert_eq!(fs::read(directory.path("copy")).unwrap(), content);
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        let (same, other) = (format!("if-none-match: {tag}"), "if-none-match: \"other\"");
        let status = |fields: &[&str], path: &str| {
            let url = url.replace("/a", path);
            let mut command = tool("/usr/bin/curl");
            command.args(["-sS", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"]);
            for field in fields {
                command.args(["-H", field]);
            }
            beside(|| crate::common::run(command.arg(url), []).text())
        };
        assert_eq!(status(&[&same], "/a"), "304 0");
        assert_eq!(status(&[other], "/a"), "200 3145728");
        assert_eq!(status(&["range: bytes=1-10"], "/a"), "206 10");
        assert_eq!(status(&["range: bytes=-5"], "/a"), "206 5");
        assert_eq!(status(&["range: bytes=1-2,4-5"], "/a"), "200 3145728");
        assert_eq!(status(&["range: bytes=3145728-"], "/a"), "416 0");
        assert_eq!(status(&["range: bytes=1-10", "if-range: \"other\""], "/a"), "200 3145728");
        assert_eq!(status(&["range: bytes=1-10", &format!("if-range: {tag}")], "/a"), "206 10");
        assert_eq!(status(&[], "/empty"), "200 0");
        assert_eq!(status(&[], "/pipe").split(' ').next(), Some("404"));
        assert_eq!(status(&[], "/missing").split(' ').next(), Some("404"));
        // curl resumes.
        fs::write(directory.path("copy"), &content[..1_000_000]).unwrap();
        let head = beside(|| curl(["-C", "-", "-D", "-", "-o", &copy, &url]));
        assert!(head.contains("content-range: bytes 1000000-3145727/3145728\r\n"), "{head}");
        assert_eq!(fs::read(directory.path("copy")).unwrap(), content);
        let head = beside(|| curl(["-I", &url]));
        assert!(head.contains("content-length: 3145728\r\n"), "{head}");
        // So does wget.
        fs::write(directory.path("copy"), &content[..2_000_000]).unwrap();
        beside(|| {
            let mut command = tool("/usr/bin/wget");
            command.args(["-q", "-c", "--no-proxy", "-O", &copy, &url]);
            crate::common::run(&mut command, []).assert_clean();
        });
        assert_eq!(fs::read(directory.path("copy")).unwrap(), content);
    });
}

#[test]
fn our_own_client_resumes_what_has_not_changed() {
    on_own_context(|| {
        let directory = TempDir::new();
        let (file, copy) = (directory.path("f"), directory.path("copy"));
        let content = noise(3 << 20, 7);
        fs::write(&file, &content).unwrap();
        let path = file.clone();
        let server = Server::new("http://127.0.0.1:0/", move |request| Reply::file(&path, request)).unwrap();
        let hour = Duration::from_secs(3600);
        let now = SystemTime::now();
        // What changes after it was sent may change once more in that second.
        for (first, second, status) in
            [(now - hour, now - hour, 206), (now - hour, now - 2 * hour, 200), (now + hour, now + hour, 200)]
        {
            let change = |time| fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
            let client = || Client::builder().proxy(Proxy::none());
            let download =
                |client: ClientBuilder| await_it(client.build().get(server.url()).resume(true).download_future(&copy));
            change(first);
            let error = download(client().max_download(1 << 20)).unwrap_err();
            assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");
            assert!(directory.path("copy.part").metadata().unwrap().len() >= 1 << 19);
            change(second);
            assert_eq!(download(client()).unwrap().status(), status);
            assert!(fs::read(&copy).unwrap() == content);
        }
    });
}

#[test]
fn a_file_that_shrinks_is_cut_and_not_padded() {
    on_own_context(|| {
        let directory = TempDir::new();
        let file = directory.path("f");
        fs::write(&file, noise(20 << 20, 3)).unwrap();
        let path = file.clone();
        let server = Server::new("http://127.0.0.1:0/", move |request| Reply::file(&path, request)).unwrap();
        let port = server.port();
        beside(move || {
            let mut raw = Raw::connect(port);
            raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            std::io::Read::read_exact(&mut raw.0, &mut [0; 1000]).unwrap();
            fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1000).unwrap();
            let mut rest = Vec::new();
            let _ = std::io::Read::read_to_end(&mut raw.0, &mut rest);
            assert!(rest.len() < 20 << 20, "{}", rest.len());
        });
    });
}

#[test]
fn streams() {
    on_own_context(|| {
        let pieces = |count: usize| {
            futures_util::stream::unfold(0, move |number| async move {
                network::sleep(Duration::from_millis(1)).await;
                (number < count).then(|| (Ok(format!("piece {number}\n").into_bytes()), number + 1))
            })
        };
        let server = Server::builder()
            .get("/chunks", move |_| Ok(Reply::stream(None, pieces(3)).header("content-type", "text/plain")))
            .get("/length", move |_| Ok(Reply::stream(Some(24), pieces(3))))
            .get("/short", move |_| Ok(Reply::stream(Some(25), pieces(3))))
            .get("/long", move |_| Ok(Reply::stream(Some(23), pieces(3))))
            .get("/error", move |_| {
                let error = futures_util::stream::iter([Ok(b"x".to_vec()), Err(Error::other("on purpose"))]);
                Ok(Reply::stream(None, error))
            })
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let (url, port) = (server.url(), server.port());
        let all = "piece 0\npiece 1\npiece 2\n";
        let text = beside(|| curl(["-i", &format!("{url}chunks")]));
        assert!(text.contains("transfer-encoding: chunked\r\n") && text.ends_with(&format!("\r\n\r\n{all}")), "{text}");
        let text = beside(|| curl(["-i", &format!("{url}length")]));
        assert!(text.contains("content-length: 24\r\n") && text.ends_with(&format!("\r\n\r\n{all}")), "{text}");
        // HTTP/1.0 has no chunks: the end of the connection is the end of the body.
        let text = beside(|| curl(["-i", "--http1.0", &format!("{url}chunks")]));
        assert!(!text.contains("transfer-encoding") && text.ends_with(&format!("\r\n\r\n{all}")), "{text}");
        beside(move || {
            for path in ["/short", "/long", "/error"] {
                let mut raw = Raw::connect(port);
                raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                let mut bytes = Vec::new();
                let _ = std::io::Read::read_to_end(&mut raw.0, &mut bytes);
                let text = String::from_utf8(bytes).unwrap();
                assert!(!text.contains("\r\n0\r\n") && !text.contains("on purpose"), "{path}: {text}");
                let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                assert!(body.len() < 25, "{path}: {text}");
            }
        });
    });
}

#[test]
fn cookies_and_redirects() {
    on_own_context(|| {
        let server = Server::builder()
            .get("/", |request| match request.cookie("seen") {
                Some(seen) => Ok(Reply::text(format!("seen {seen}"))),
                None => Ok(Reply::redirect(303, "/").cookie("seen", "yes").cookie("other", "x")),
            })
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let url = server.url();
        let text = beside(|| curl(["-i", "-L", "-b", "", &url]));
        assert!(text.contains("set-cookie: seen=yes; Path=/; HttpOnly; SameSite=Lax\r\n"), "{text}");
        assert!(text.contains("location: /\r\n") && text.ends_with("seen yes"), "{text}");
    });
}

#[test]
fn unix_sockets() {
    on_own_context(|| {
        let directory = TempDir::new();
        let path = directory.address("sock");
        let listener = network::Server::builder().mode(0o600);
        let builder = Server::builder()
            .listener(listener)
            .get("/", |request| Ok(Reply::text(format!("{} {:?}", request.remote(), request.host()))));
        let server = builder.listen(path.as_str()).unwrap();
        assert_eq!((server.url(), server.port()), (format!("unix:{path}"), 0));
        // Any host will do.
        let text = beside(|| curl(["--unix-socket", &path, "http://any.example/"]));
        assert_eq!(text, "a unix socket Some(\"any.example\")");
        drop(server);
        assert!(!directory.path("sock").exists());
    });
}

#[test]
fn tls() {
    on_own_context(|| {
        let directory = TempDir::new();
        let (certificate, key) = (directory.address("c.pem"), directory.address("k.pem"));
        let mut command = tool("/usr/bin/openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        command.args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
        assert!(crate::common::run(&mut command, []).status.success());
        let server = Server::builder()
            .tls(ServerTls::pem(&certificate, &key))
            .get("/", |request| Ok(Reply::text(format!("{}", request.is_tls())).cookie("a", "b")))
            .listen("https://localhost:0/")
            .unwrap();
        let url = server.url();
        assert!(url.starts_with("https://localhost:"), "{url}");
        let text = beside(|| curl(["-i", "--cacert", &certificate, &url]));
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("true"), "{text}");
        assert!(text.contains("SameSite=Lax; Secure\r\n"), "{text}");
    });
}

#[test]
fn addresses_and_options_that_cannot_be() {
    on_own_context(|| {
        let listen = |address: &str| Server::new(address, |_| Ok(Reply::status(204)));
        let error = listen("8080").err().unwrap();
        assert!(matches!(error, Error::Address { .. }) && error.to_string().contains("http://"), "{error}");
        assert!(matches!(listen("ftp://127.0.0.1:0/"), Err(Error::Address { .. })));
        let server = listen("http://127.0.0.1:0/").unwrap();
        let again = listen(&server.url()).err().unwrap();
        assert!(matches!(again, Error::InUse { .. }), "{again}");
        let builder = || Server::builder().get("/", |_| Ok(Reply::status(204)));
        for builder in [
            builder().keep_idle(Duration::ZERO),
            builder().header_timeout(Duration::ZERO),
            builder().body_timeout(Duration::ZERO),
            builder().write_timeout(Duration::ZERO),
            builder().header_limit(0),
            builder().max_headers(0),
            builder().max_headers(usize::MAX),
            builder().target_limit(0),
            builder().requests_per_connection(0),
            builder().max_connections(0),
            builder().listener(network::Server::builder().max_handshakes(0)),
            builder().tls(true),
            // These would never fit a request.
            builder().get("health", |_| Ok(Reply::status(204))),
            builder().get("", |_| Ok(Reply::status(204))),
            builder().get("/a/*/b", |_| Ok(Reply::status(204))),
            builder().any("/a?b", |_| Ok(Reply::status(204))),
            builder().get("/a%20b", |_| Ok(Reply::status(204))),
            builder().get("/a/../b", |_| Ok(Reply::status(204))),
            builder().get("/e/:id", |_| Ok(Reply::status(204))),
            builder().get("/f/{id}/x", |_| Ok(Reply::status(204))),
            builder().get("/g/<id>", |_| Ok(Reply::status(204))),
            builder().get("/", |_| Ok(Reply::status(204))),
            builder().hosts(["https://desk.example/"]),
            builder().hosts(["*"]),
            builder().hosts([""]),
            builder().origins(["app.example"]),
            builder().origins(["https://app.example/"]),
        ] {
            assert!(matches!(builder.listen("http://127.0.0.1:0/"), Err(Error::InvalidOption(_))));
        }
        // The threads' own handlers are looked at as well.
        let threads =
            Server::builder().threads(2, || network::http::Routes::new().any("/:id", |_| Ok(Reply::status(204))));
        assert!(matches!(threads.listen("http://127.0.0.1:0/"), Err(Error::InvalidOption(_))));
        // Everything is served twice.
        let all = || Server::builder().any("*", |_| Ok(Reply::status(204)));
        assert!(matches!(all().bind("http://127.0.0.1:0/"), Err(Error::InvalidOption(_))));
        let again = all().serve("http://127.0.0.1:0/", async |_| Ok(Reply::status(204)));
        assert!(matches!(again, Err(Error::InvalidOption(_))));
        assert!(matches!(builder().tls(false).listen("https://127.0.0.1:0/"), Err(Error::InvalidOption(_))));
        assert!(builder().keep_idle(Duration::MAX).header_timeout(None).listen("http://127.0.0.1:0/").is_ok());
    });
}
