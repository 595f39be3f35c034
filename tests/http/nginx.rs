//! The client against nginx and python's http.server.

use std::time::Instant;

use network::http::{Client, ClientBuilder, StatusCode, Version};
use network::tls::Identity;
use network::{ClientTls, Error};

use super::common::{LIMIT, Process, TempDir, Watch, await_it, noise, on_own_context, party, run, tool};
use super::hostile::plain;

const BIG: usize = 16 << 20;

/// nginx, for one test.
pub struct Nginx {
    _process: Process,
    pub directory: TempDir,
    port: u16,
    /// With a certificate, one for another host, one that has expired, and for clients with a certificate.
    tls: [u16; 4],
}

/// Waits until it accepts connections: it does not say.
pub fn await_start(port: u16) {
    let late = Instant::now() + LIMIT;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < late, "the server does not accept connections");
        std::thread::yield_now();
    }
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Makes an authority, and certificates of it for these hosts and dates.
fn certify(directory: &TempDir) {
    let openssl = |arguments: &str| {
        let mut openssl = tool("/usr/bin/openssl");
        openssl.args(arguments.split(' '));
        let output = run(openssl.current_dir(directory.path("")), "");
        assert!(output.status.success(), "{}", output.stderr);
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -days 30 -subj /CN=authority -out ca.pem -keyout ca.key"));
    for (name, subject, days) in [
        ("good", "IP:127.0.0.1", "-days 30"),
        ("other", "DNS:elsewhere.test", "-days 30"),
        ("old", "IP:127.0.0.1", "-days -1"),
        ("client", "DNS:client.test", "-days 30"),
    ] {
        openssl(&format!(
            "req {key} -subj /CN={name} -addext subjectAltName={subject} -out {name}.csr -keyout {name}.key"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial {days} -copy_extensions copy -out {name}.pem"
        ));
    }
}

impl Nginx {
    fn start() -> Nginx {
        let directory = TempDir::new();
        let root = directory.path("root");
        std::fs::create_dir_all(root.join("up")).unwrap();
        std::fs::write(root.join("hello.txt"), "hello\n").unwrap();
        std::fs::write(root.join("page.html"), "<p>page</p>\n".repeat(10_000)).unwrap();
        std::fs::write(root.join("big"), noise(BIG, 5)).unwrap();
        // The date of a file that changed just now does not say which version it is.
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        std::fs::File::options().write(true).open(root.join("big")).unwrap().set_modified(long_ago).unwrap();
        std::fs::write(directory.path("users"), "me:{PLAIN}sesam\n").unwrap();
        certify(&directory);
        let port = free_port();
        let tls = [free_port(), free_port(), free_port(), free_port()];
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.address("")))
            .concat();
        let server = |name: &str, port: u16, more: &str| {
            format!(
                "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {0}/{name}.pem; ssl_certificate_key {0}/{name}.key; {more}\n\
                 location / {{ root {0}/root; }} }}\n",
                directory.address("")
            )
        };
        let secure = [
            server("good", tls[0], ""),
            server("other", tls[1], ""),
            server("old", tls[2], ""),
            server(
                "good",
                tls[3],
                &format!("ssl_client_certificate {}; ssl_verify_client on;", directory.address("ca.pem")),
            ),
        ];
        let config = format!(
            "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}\
             keepalive_requests 1000; add_header X-Connection $connection always; client_max_body_size 32m; gzip_types text/plain;\n\
             server {{\nlisten 127.0.0.1:{port}; listen unix:{0}/socket; root {0}/root;\n\
             location /up {{ dav_methods PUT DELETE; }}\n\
             location /private {{ auth_basic x; auth_basic_user_file {0}/users; alias {0}/root; }}\n\
             location /packed {{ gzip on; alias {0}/root; }}\n\
             location /301 {{ return 301 /hello.txt; }}\nlocation /303 {{ return 303 /hello.txt; }}\n\
             location /308 {{ return 308 /up/there; }}\n\
             location /empty {{ return 204; }}\nlocation /busy {{ return 503; }}\n}}\n{1}}}\n",
            directory.address(""),
            secure.concat()
        );
        std::fs::write(directory.path("nginx.conf"), config).unwrap();
        let mut nginx = party("nginx");
        nginx
            .arg("-p")
            .arg(directory.path(""))
            .arg("-c")
            .arg(directory.path("nginx.conf"))
            .arg("-e")
            .arg(directory.path("error.log"));
        let process = Process::start(&mut nginx, Watch::Stderr);
        // It opens one after the other.
        [port].into_iter().chain(tls).for_each(await_start);
        Nginx { _process: process, directory, port, tls }
    }

    fn url(&self, target: &str) -> String {
        format!("http://127.0.0.1:{}{target}", self.port)
    }

    fn secure(&self, which: usize) -> String {
        format!("https://127.0.0.1:{}/hello.txt", self.tls[which])
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory.path("root").join(name)).unwrap()
    }
}

fn get(client: &Client, url: &str) -> network::Result<String> {
    await_it(async { client.get(url).send_future().await?.error_for_status()?.text_future().await })
}

#[test]
fn nginx() {
    let nginx = Nginx::start();
    on_own_context(|| {
        let client = plain().build();
        let url = nginx.url("/hello.txt");
        let mut etag = String::new();
        for number in 0..100 {
            let response = await_it(client.get(&url).send_future()).unwrap();
            etag = response.header("etag").unwrap().to_owned();
            assert_eq!((response.content_length(), response.version()), (Some(6), Version::HTTP_11));
            let connection = response.header("x-connection").unwrap().to_owned();
            assert_eq!(await_it(response.text_future()).unwrap(), "hello\n");
            assert_eq!(connection, response.header("x-connection").unwrap(), "{number}");
        }
        let connection = |client: &Client| {
            let response = await_it(client.get(&url).send_future()).unwrap();
            await_it(response.text_future()).unwrap();
            response.header("x-connection").unwrap().to_owned()
        };
        let first = connection(&client);
        let fetch = |request: network::http::RequestBuilder| {
            await_it(async {
                let response = request.send_future().await?;
                let body = response.bytes_future().await?;
                Ok::<_, Error>((response, body))
            })
            .unwrap()
        };
        let (response, body) = fetch(client.head(nginx.url("/big")));
        assert_eq!((response.header("content-length"), body.len()), (Some("16777216"), 0));
        let (response, body) = fetch(client.get(&url).header("if-none-match", &etag));
        assert_eq!((response.status(), body.len()), (StatusCode::NOT_MODIFIED, 0));
        let (response, body) = fetch(client.get(nginx.url("/empty")));
        assert_eq!((response.status(), body.len()), (StatusCode::NO_CONTENT, 0));
        let (response, body) = fetch(client.get(&url).header("range", "bytes=1-2"));
        assert_eq!((response.status(), &body[..]), (StatusCode::PARTIAL_CONTENT, &b"el"[..]));
        let (response, body) = fetch(client.post(nginx.url("/303")).body("x"));
        assert_eq!((response.url(), &body[..]), (&url[..], &b"hello\n"[..]));
        assert_eq!(connection(&client), first, "one connection for all of that");

        // 16 MiB both ways, and by a stream of unknown length.
        let big = nginx.read("big");
        let (_, body) = fetch(client.get(nginx.url("/big")));
        assert!(body == big);
        let (response, _) = fetch(client.put(nginx.url("/up/file")).file(nginx.directory.path("root/big")));
        assert_eq!(response.status(), StatusCode::CREATED);
        assert!(nginx.read("up/file") == big);
        let pieces: Vec<_> = big.chunks(100_000).map(|piece| Ok(piece.to_vec())).collect();
        fetch(client.put(nginx.url("/up/stream")).body_stream(None, futures_util::stream::iter(pieces)));
        assert!(nginx.read("up/stream") == big);
        let (response, _) = fetch(client.put(nginx.url("/308")).body("moved"));
        assert_eq!((response.status(), &nginx.read("up/there")[..]), (StatusCode::CREATED, &b"moved"[..]));
        fetch(client.delete(nginx.url("/up/there")));
        assert!(!nginx.directory.path("root/up/there").exists());

        let (response, body) = fetch(client.get(&url).version(Version::HTTP_10));
        assert_eq!((response.status(), &body[..]), (StatusCode::OK, &b"hello\n"[..]));
        let (response, _) = fetch(client.get(nginx.url("/busy")));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let private = nginx.url("/private/hello.txt");
        assert!(matches!(get(&client, &private), Err(Error::Status { status, .. }) if status == 401));
        let known = plain().basic("me", "sesam").build();
        assert_eq!(get(&known, &private).unwrap(), "hello\n");
        assert_eq!(get(&client, &private.replace("//", "//me:sesam@")).unwrap(), "hello\n");

        let unix = plain().connect_to(nginx.directory.path("socket")).build();
        assert_eq!(get(&unix, "http://anything/hello.txt").unwrap(), "hello\n");
        assert_eq!(unix.get("http://anything/hello.txt").send().unwrap().text().unwrap(), "hello\n");
    });
}

#[cfg(feature = "gzip")]
#[test]
fn what_nginx_compresses_is_decompressed() {
    let nginx = Nginx::start();
    on_own_context(|| {
        let page = String::from_utf8(nginx.read("page.html")).unwrap();
        let packing = plain().decompress(true).build();
        let response = await_it(packing.get(nginx.url("/packed/page.html")).send_future()).unwrap();
        assert_eq!((response.header("content-encoding"), response.content_length()), (None, None));
        assert!(await_it(response.text_future()).unwrap() == page);
        // Off, it is neither asked for nor undone.
        let response = await_it(plain().build().get(nginx.url("/packed/page.html")).send_future()).unwrap();
        assert!(await_it(response.text_future()).unwrap() == page);
        let request = plain().build().get(nginx.url("/packed/page.html")).header("accept-encoding", "gzip");
        let response = await_it(request.send_future()).unwrap();
        assert_eq!(response.header("content-encoding"), Some("gzip"));
        assert!(await_it(response.bytes_future()).unwrap().starts_with(&[0x1f, 0x8b]));
    });
}

#[test]
fn trust_decides_about_https() {
    let nginx = Nginx::start();
    let authority = std::fs::read(nginx.directory.path("ca.pem")).unwrap();
    let by = |tls: ClientTls| -> ClientBuilder { plain().tls(tls.directory(nginx.directory.path("store"))) };
    let roots = || by(ClientTls::roots(&authority));
    for blocks in [false, true] {
        on_own_context(|| {
            let get = |client: Client, which: usize| match blocks {
                false => get(&client, &nginx.secure(which)),
                true => client.get(nginx.secure(which)).send()?.text(),
            };
            assert_eq!(get(roots().build(), 0).unwrap(), "hello\n");
            for (client, which) in [(roots(), 1), (roots(), 2), (by(ClientTls::new()), 0), (by(ClientTls::system()), 0)]
            {
                let error = get(client.build(), which).unwrap_err();
                assert!(matches!(error, Error::UnknownCertificate { .. }), "{which}: {error}");
            }
            let Err(Error::UnknownCertificate { fingerprint, .. }) = get(by(ClientTls::new()).build(), 0) else {
                panic!()
            };
            assert_eq!(get(by(ClientTls::pinned(*fingerprint)).build(), 0).unwrap(), "hello\n");
            let error = get(by(ClientTls::pinned(*fingerprint)).build(), 1).unwrap_err();
            assert!(matches!(error, Error::CertificateChanged { .. }), "{error}");
            let directory = &nginx.directory;
            let identity = Identity::pem(directory.path("client.pem"), directory.path("client.key")).unwrap();
            let known = by(ClientTls::roots(&authority).identity(identity)).build();
            assert_eq!(get(known, 3).unwrap(), "hello\n");
            // nginx answers 400 in its own words.
            assert!(get(roots().build(), 3).is_ok_and(|text| text.contains("No required SSL certificate")) == blocks);
            // Another address in place of the host, whose certificate it is all the same.
            let elsewhere = roots().connect_to(("127.0.0.1", nginx.tls[1])).build();
            let text = match blocks {
                false => super::nginx::get(&elsewhere, "https://elsewhere.test/hello.txt"),
                true => elsewhere.get("https://elsewhere.test/hello.txt").send().and_then(|response| response.text()),
            };
            assert_eq!(text.unwrap(), "hello\n");
        });
    }
    on_own_context(|| {
        let client = roots().build();
        let response = await_it(client.get(nginx.secure(0)).send_future()).unwrap();
        assert!(response.is_tls() && response.peer_certificate().is_some());
        assert_eq!(response.remote().unwrap().inet().unwrap().port(), nginx.tls[0]);
        // Plaintext where TLS is spoken, and the other way round.
        let error = get(&client, &format!("https://127.0.0.1:{}/", nginx.port)).unwrap_err();
        assert!(matches!(error, Error::Plaintext { .. }), "{error}");
    });
}

#[test]
fn a_download_continues_where_it_was_cut() {
    let nginx = Nginx::start();
    let (port, target) = (nginx.port, nginx.directory.path("copy"));
    let part = nginx.directory.path("copy.part");
    // Between the client and nginx: the first connection is reset at half.
    let relay = super::scripted::Server::new(move |mut peer| {
        let mut server = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let head = peer.head().unwrap();
        std::io::Write::write_all(&mut server, head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        if peer.number == 0 {
            let mut half = vec![0; BIG / 2];
            std::io::Read::read_exact(&mut server, &mut half).unwrap();
            peer.say(half);
            peer.reset();
        } else {
            let mut rest = Vec::new();
            std::io::Read::read_to_end(&mut server, &mut rest).unwrap();
            peer.say(rest);
        }
    });
    let big = nginx.read("big");
    for face in 0..3 {
        on_own_context(|| {
            let client = plain().build();
            let steps = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
            let told = steps.clone();
            let request = client.get(relay.url("/big")).resume(true);
            let request =
                request.progress(move |progress| told.borrow_mut().push((progress.received, progress.to_receive)));
            let result = match face {
                0 => request.download(&target),
                1 => super::common::told(|done| request.download_async(&target, gio::Cancellable::NONE, done)),
                _ => await_it(request.download_future(&target)),
            };
            match face {
                0 => {
                    let error = result.unwrap_err();
                    assert!(matches!(error, Error::Reset { .. } | Error::Closed { .. }), "{error}");
                    assert!(!target.exists() && part.metadata().unwrap().len() > 0);
                }
                1 => {
                    let response = result.unwrap();
                    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
                    assert!(std::fs::read(&target).unwrap() == big && !part.exists());
                    let steps = steps.borrow();
                    assert!(
                        steps[1].0 > 0 && steps.iter().skip(1).all(|(_, total)| *total == Some(BIG as u64)),
                        "{:?}",
                        &steps[..3]
                    );
                    assert_eq!(steps.last().unwrap().0, BIG as u64);
                }
                _ => {
                    // All of it was there, under another name.
                    assert_eq!(result.unwrap().status(), StatusCode::OK);
                    std::fs::rename(&target, &part).unwrap();
                    let whole = await_it(client.get(relay.url("/big")).resume(true).download_future(&target)).unwrap();
                    assert_eq!(whole.status(), StatusCode::RANGE_NOT_SATISFIABLE);
                    assert!(std::fs::read(&target).unwrap() == big);
                    // Another file there: it begins anew.
                    std::fs::rename(&target, &part).unwrap();
                    std::fs::File::options()
                        .write(true)
                        .open(&part)
                        .unwrap()
                        .set_modified(std::time::SystemTime::UNIX_EPOCH)
                        .unwrap();
                    let anew = await_it(client.get(relay.url("/big")).resume(true).download_future(&target)).unwrap();
                    assert_eq!(anew.status(), StatusCode::OK);
                    assert!(std::fs::read(&target).unwrap() == big);
                    // A status is an error, and the file stays as it was.
                    let error = await_it(client.get(nginx.url("/none")).download_future(&target)).unwrap_err();
                    assert!(matches!(error, Error::Status { .. }), "{error}");
                    assert!(std::fs::read(&target).unwrap() == big && !part.exists());
                    let error =
                        await_it(client.get(nginx.url("/big")).download_future(nginx.directory.path(""))).unwrap_err();
                    assert!(matches!(error, Error::Io { .. }), "{error}");
                }
            }
        });
    }
}

#[test]
fn pythons_server() {
    let directory = TempDir::new();
    std::fs::write(directory.path("file"), noise(300_000, 9)).unwrap();
    let port = free_port();
    let mut python = tool("/usr/bin/python3");
    python
        .args(["-u", "-m", "http.server", &port.to_string(), "--bind", "127.0.0.1", "--directory"])
        .arg(directory.path(""));
    let server = Process::start(&mut python, Watch::Stdout);
    server.line_with("Serving");
    on_own_context(|| {
        let client = plain().build();
        let url = format!("http://127.0.0.1:{port}");
        let response = await_it(client.get(format!("{url}/file")).send_future()).unwrap();
        assert_eq!(response.version(), Version::HTTP_10);
        assert!(await_it(response.bytes_future()).unwrap() == noise(300_000, 9));
        assert!(get(&client, &format!("{url}/")).unwrap().contains("Directory listing"));
        // Its time is told by nobody: it is that of the download.
        let page = directory.path("page");
        await_it(client.get(format!("{url}/")).download_future(&page)).unwrap();
        assert!(page.metadata().unwrap().modified().unwrap().elapsed().unwrap() < LIMIT);
        let error = get(&client, &format!("{url}/none")).unwrap_err();
        assert!(
            matches!(&error, Error::Status { status, body, .. } if *status == 404 && body.contains("File not found")),
            "{error}"
        );
    });
}
