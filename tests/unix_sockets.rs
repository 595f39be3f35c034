//! Unix sockets: who may connect to them, what becomes of their paths, and names without a path. Where it takes a second
//! user, the tests run as root.

mod common;

use std::cell::RefCell;
use std::fs::Permissions;
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{LIMIT, Output, TempDir, beside, command, example, on_own_context, run, until};
use network::{Endpoint, Error, Server, Socket, server::ServerBuilder};

/// The user and group `nobody`, and a group that nobody is in by itself.
const NOBODY: u32 = 65534;
const GROUP: u32 = 54321;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("only root can be somebody else");
    }
    root
}

/// Says one word to each client.
fn greeter(builder: ServerBuilder, address: &str) -> network::Result<Server> {
    builder.listen(address, |socket| {
        socket.sendline("welcome")?;
        socket.close();
        Ok(())
    })
}

/// What a client gets that runs as another user, in that group and these others.
fn connect_as(user: u32, group: u32, others: &str, address: &str) -> Output {
    let mut client: Command = common::tool("/usr/bin/setpriv");
    client.args([format!("--reuid={user}"), format!("--regid={group}")]);
    client.arg(if others.is_empty() { "--clear-groups".into() } else { format!("--groups={others}") });
    let target = match address.strip_prefix('@') {
        Some(name) => format!("ABSTRACT-CONNECT:{name}"),
        None => format!("UNIX-CONNECT:{address}"),
    };
    beside(|| run(client.args(["/usr/bin/socat", "-u", &target, "-"]), ""))
}

#[track_caller]
fn assert_welcome(output: &Output) {
    assert!(output.status.success() && output.text() == "welcome\n", "{output:?}");
}

#[track_caller]
fn assert_no_way(output: &Output) {
    assert!(!output.status.success() && output.stderr.contains("Permission denied"), "{output:?}");
}

/// The connection was made, and closed without a word.
#[track_caller]
fn assert_turned_away(output: &Output) {
    let reset = output.stderr.contains("Connection reset");
    assert!((output.status.success() || reset) && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn the_mode_decides_who_connects_whatever_the_umask() {
    on_own_context(|| {
        let directory = TempDir::new();
        for mode in [0o600, 0o660, 0o666, 0o777, 0o000] {
            let address = directory.address(&format!("{mode:o}"));
            let server = greeter(Server::builder().mode(mode), &address).unwrap();
            assert_eq!(std::fs::metadata(&address).unwrap().mode() & 0o7777, mode);
            if is_root() {
                let output = connect_as(NOBODY, NOBODY, "", &address);
                if mode & 0o002 != 0 { assert_welcome(&output) } else { assert_no_way(&output) }
            }
            drop(server);
            assert!(!Path::new(&address).exists());
        }
    });
}

#[test]
fn a_group_gets_the_path_and_its_members_in() {
    if !is_root() {
        return;
    }
    on_own_context(|| {
        let directory = TempDir::new();
        let address = directory.address("by number");
        let _server = greeter(Server::builder().group(GROUP), &address).unwrap();
        let file = std::fs::metadata(&address).unwrap();
        assert_eq!((file.mode() & 0o7777, file.gid()), (0o660, GROUP), "without a mode");
        assert_no_way(&connect_as(NOBODY, NOBODY, "", &address));
        assert_welcome(&connect_as(NOBODY, GROUP, "", &address));
        assert_welcome(&connect_as(NOBODY, NOBODY, &GROUP.to_string(), &address));

        let address = directory.address("by name");
        let _server = greeter(Server::builder().group("daemon").mode(0o620), &address).unwrap();
        let file = std::fs::metadata(&address).unwrap();
        assert_eq!((file.mode() & 0o7777, file.gid()), (0o620, 1));
    });
}

#[test]
fn a_group_that_cannot_be_given_leaves_no_path() {
    on_own_context(|| {
        let directory = TempDir::new();
        let address = directory.address("socket");
        let error = greeter(Server::builder().group("no such group"), &address).unwrap_err();
        assert!(matches!(error, Error::InvalidOption(_)), "{error:?}");
        assert_eq!(error.to_string(), r#"unknown group "no such group""#);
        assert!(!Path::new(&address).exists());
    });
    if !is_root() {
        return;
    }
    // Somebody who is not in that group, by the example.
    let directory = TempDir::new();
    std::os::unix::fs::chown(directory.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let address = directory.address("socket");
    let program = directory.path("daemon");
    std::fs::copy(example("daemon"), &program).unwrap();
    let mut daemon = common::tool("/usr/bin/setpriv");
    daemon.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
    let output = run(daemon.arg(&program).args([&address, "--group", "root"]), "");
    let line = output.assert_failed();
    assert!(line.contains("cannot set its group to 0") && line.contains("not permitted"), "{line}");
    assert!(!Path::new(&address).exists());
}

#[test]
fn rights_are_refused_where_there_is_no_path() {
    on_own_context(|| {
        for address in ["127.0.0.1:0", "@network-test-rights"] {
            for builder in [Server::builder().mode(0o600), Server::builder().group(0)] {
                let error = greeter(builder.tls(false), address).unwrap_err();
                assert!(matches!(error, Error::Address { .. }), "{error}");
            }
        }
        let error = greeter(Server::builder().tls(false).allow_users([0]), "127.0.0.1:0").unwrap_err();
        assert!(error.to_string().contains("require a unix socket"), "{error}");
        let error = greeter(Server::builder().mode(0o4755), "./never-made").unwrap_err();
        assert!(matches!(error, Error::InvalidOption(_)) && error.to_string().contains("at most 0777"), "{error}");
    });
}

#[test]
fn who_is_not_on_the_list_is_closed_at_once() {
    if !is_root() {
        return;
    }
    on_own_context(|| {
        let directory = TempDir::new();
        let name = format!("@{}", directory.address("abstract"));
        for address in [&directory.address("socket"), &name] {
            let open = |builder: ServerBuilder| match address.starts_with('@') {
                true => builder,
                false => builder.mode(0o666),
            };
            let allow = |builder: ServerBuilder| greeter(open(builder), address).unwrap();

            let server = allow(Server::builder().allow_users(["nobody"]));
            assert_welcome(&connect_as(NOBODY, NOBODY, "", address));
            assert_turned_away(&connect_as(1, 1, "", address));
            assert_turned_away(&connect_as(0, 0, "", address));
            drop(server);

            let server = allow(Server::builder().allow_groups([GROUP]));
            assert_welcome(&connect_as(1, GROUP, "", address));
            // Of a hundred groups it is the last.
            let many: Vec<String> = (1000..1099).chain([GROUP]).map(|group| group.to_string()).collect();
            assert_welcome(&connect_as(1, 1, &many.join(","), address));
            assert_turned_away(&connect_as(NOBODY, NOBODY, "", address));
            drop(server);

            let server = allow(Server::builder().allow_users([0]).allow_groups([GROUP]));
            assert_welcome(&connect_as(0, 0, "", address));
            assert_welcome(&connect_as(1, GROUP, "", address));
            assert_turned_away(&connect_as(1, 1, "", address));
            assert!(server.connections().len() <= 2);
            drop(server);

            let server = allow(Server::builder().allow_users([0; 0]));
            assert_turned_away(&connect_as(0, 0, "", address));
            drop(server);
        }
        let error = greeter(Server::builder().allow_users(["no such user"]), &directory.address("socket")).unwrap_err();
        assert_eq!(error.to_string(), r#"unknown user "no such user""#);
    });
}

// ---- paths ----

#[test]
fn only_what_nobody_answers_on_is_taken_over() {
    on_own_context(|| {
        let directory = TempDir::new();
        let address = directory.address("socket");
        let refused = |builder: ServerBuilder, why: &str| {
            let error = greeter(builder, &address).unwrap_err();
            assert!(matches!(error, Error::InUse { .. }) && error.to_string().contains(why), "{error}");
        };
        let replace_stale = || Server::builder().replace_stale(true);

        // Of one that is gone.
        drop(UnixListener::bind(&address).unwrap());
        refused(Server::builder(), "a socket that no server listens on");
        let server = greeter(replace_stale(), &address).unwrap();
        refused(Server::builder(), "another server is listening");

        // Of one that is there.
        refused(replace_stale(), "another server is listening");
        let other = UnixStream::connect(&address);
        assert!(other.is_ok());
        drop(server);
        let full = UnixListener::bind(&address).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let _waiting = UnixStream::connect(&address).unwrap();
        refused(replace_stale(), "another server is listening");
        drop(full);
        std::fs::remove_file(&address).unwrap();

        // No stream socket, or none at all.
        let datagrams = std::os::unix::net::UnixDatagram::bind(&address).unwrap();
        refused(replace_stale(), "another process is using a socket");
        drop(datagrams);
        std::fs::remove_file(&address).unwrap();
        std::fs::write(&address, "precious").unwrap();
        refused(replace_stale(), "is not a socket");
        refused(Server::builder(), "is not a socket");
        assert_eq!(std::fs::read(&address).unwrap(), b"precious");
        std::fs::remove_file(&address).unwrap();
        std::os::unix::fs::symlink(directory.path("elsewhere"), &address).unwrap();
        refused(replace_stale(), "is not a socket");
    });
}

#[test]
fn a_strangers_lock_keeps_no_server_from_starting() {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    on_own_context(|| {
        let directory = TempDir::new();
        let address = directory.address("socket");
        let lock = |path: &Path, flags| {
            let file = open(path, flags | OFlags::CLOEXEC, Mode::from(0o666)).unwrap();
            flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
            file
        };
        // Whoever can read a directory can lock it.
        let held = lock(&directory.path(""), OFlags::RDONLY | OFlags::DIRECTORY);
        drop(UnixListener::bind(&address).unwrap());
        let started = std::time::Instant::now();
        drop(greeter(Server::builder().replace_stale(true), &address).unwrap());
        assert!(started.elapsed() < std::time::Duration::from_millis(1900), "nor does it have to wait");
        drop(held);

        // The file by which servers take turns is not for strangers, but where they can make files, one may lie there.
        let theirs = directory.path(".socket.lock");
        let held = lock(&theirs, OFlags::RDWR | OFlags::CREATE);
        if is_root() {
            std::os::unix::fs::chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        drop(UnixListener::bind(&address).unwrap());
        drop(greeter(Server::builder().replace_stale(true), &address).unwrap());
        drop(held);
        std::fs::remove_file(&theirs).unwrap();

        drop(UnixListener::bind(&address).unwrap());
        let _server = greeter(Server::builder().replace_stale(true), &address).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(directory.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["socket"], "no lock is left behind");
    });
}

#[test]
fn of_servers_that_start_at_once_one_gets_the_path() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    for _ in 0..20 {
        drop(UnixListener::bind(&address).unwrap());
        let barrier = std::sync::Barrier::new(4);
        let start = || {
            on_own_context(|| {
                barrier.wait();
                let server = greeter(Server::builder().replace_stale(true), &address);
                // Until all have tried.
                barrier.wait();
                match server {
                    Ok(_) => true,
                    Err(Error::InUse { .. }) => false,
                    Err(error) => panic!("{error}"),
                }
            })
        };
        let winners = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(winners, 1);
        assert!(!Path::new(&address).exists(), "it has removed its path");
    }
}

/// Ends a thread, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_file_that_is_put_in_the_sockets_place_is_left_alone() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    on_own_context(|| {
        let directory = TempDir::new();
        let (address, secret) = (directory.address("socket"), directory.path("secret"));
        std::fs::write(&secret, "secret").unwrap();
        std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        let (stop, armed) = (AtomicBool::new(false), Mutex::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Puts the one in the place of the other, once, as soon as both are there.
                while !stop.load(Ordering::Relaxed) {
                    let mut armed = armed.lock().unwrap();
                    *armed = *armed && renameat_with(CWD, &address, CWD, &secret, RenameFlags::EXCHANGE).is_err();
                }
            });
            let _stop = Stop(&stop);
            for _ in 0..1000 {
                *armed.lock().unwrap() = true;
                let server = greeter(Server::builder().mode(0o666), &address);
                drop(server);
                *armed.lock().unwrap() = false;
                if std::fs::symlink_metadata(&secret).unwrap().file_type().is_socket() {
                    std::fs::rename(&address, &secret).unwrap();
                }
                let _ = std::fs::remove_file(&address);
                assert_eq!(std::fs::metadata(&secret).unwrap().mode() & 0o777, 0o600);
            }
        });
        assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
    });
}

#[test]
fn a_path_that_is_another_servers_by_now_is_not_removed() {
    on_own_context(|| {
        let directory = TempDir::new();
        let address = directory.address("socket");
        let server = greeter(Server::builder(), &address).unwrap();
        std::fs::remove_file(&address).unwrap();
        let _other = UnixListener::bind(&address).unwrap();
        drop(server);
        assert!(UnixStream::connect(&address).is_ok(), "the other one is there still");
    });
}

// ---- names without a path ----

#[test]
fn an_abstract_name_is_listened_on_and_connected_to() {
    on_own_context(|| {
        let directory = TempDir::new();
        let name = directory.address("of a socket");
        let address = format!("@{name}");
        let server = greeter(Server::builder(), &address).unwrap();
        assert_eq!(server.local(), [Endpoint::Abstract(name.clone().into())]);
        assert_eq!(server.local()[0].to_string(), address);
        assert!(!Path::new(&name).exists() && !Path::new(&address).exists(), "there is no file");

        let client = Socket::connect(&address).unwrap();
        assert_eq!(client.remote(), Endpoint::Abstract(name.clone().into()));
        let said = Rc::new(RefCell::new(String::new()));
        let place = said.clone();
        client.readlines(move |_, line| {
            place.replace(line.into());
            Ok(())
        });
        until(|| *said.borrow() == "welcome");

        let error = greeter(Server::builder(), &address).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        drop(server);
        assert!(matches!(Socket::connect(&address).unwrap_err(), Error::Refused { .. }));
        // The name can be had again at once.
        let _server = greeter(Server::builder().replace_stale(true), &address).unwrap();
        let mut std = UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        std.set_read_timeout(Some(LIMIT)).unwrap();
        let mut welcome = [0; 8];
        beside(|| std.read_exact(&mut welcome).unwrap());
        assert_eq!(&welcome, b"welcome\n");
    });
}

#[test]
fn an_abstract_name_is_a_unix_socket_on_either_side() {
    on_own_context(|| {
        let directory = TempDir::new();
        let name = directory.address("both");
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let client = Socket::connect(format!("@{name}")).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = Socket::builder().accept_fds(1).from_fd(accepted).unwrap();
        for socket in [&client, &accepted] {
            assert!(socket.remote().is_unix());
            assert_eq!(socket.peer_credentials().unwrap().pid, Some(std::process::id()));
        }
        client.send_fd("x", std::io::stdin()).unwrap();
        accepted.recv_fd().unwrap();
        // Where a peer listens as well, its endpoint is an address.
        let again = Socket::connect(network::Address::try_from(client.remote()).unwrap()).unwrap();
        assert_eq!(again.remote(), client.remote());
    });
}

#[test]
fn the_examples_speak_over_an_abstract_name() {
    let directory = TempDir::new();
    let address = format!("@{}", directory.address("name"));
    run(&mut command(example("daemon"), [&address]), "").assert_clean();
    let output = run(&mut command(example("netcat"), [&address]), "hello\n");
    output.assert_clean();
    let text = output.text();
    let pid = text.lines().next().unwrap().strip_prefix("daemon ").unwrap().parse().unwrap();
    let _daemon = common::Other::new(pid);
    assert!(text.ends_with("You said: hello\n"), "{text}");
}
