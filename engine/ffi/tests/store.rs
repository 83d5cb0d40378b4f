//! The TCP store: reads, writes, deadlines and connection errors.
#![expect(clippy::unwrap_used, reason = "test helpers may unwrap")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use neva_torch_ffi::{Error, LogLevel, Store, TcpStore, set_log_level};

const HOST: &str = "127.0.0.1";
const DEADLINE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn pair() -> (TcpStore, TcpStore) {
    let server = TcpStore::server(HOST, 0, 2, DEADLINE).unwrap();
    let client = TcpStore::client(HOST, server.port(), 2, DEADLINE).unwrap();
    (server, client)
}

#[test]
fn all_workers_have_the_same_keys() {
    let (server, client) = pair();
    assert_ne!(server.port(), 0);
    for value in [&b""[..], b"plan", &[0, 255, 7]] {
        server.set("key", value).unwrap();
        assert_eq!(client.get("key", DEADLINE).unwrap(), value);
    }
    assert_eq!((client.add("ranks", 2).unwrap(), server.add("ranks", 3).unwrap()), (2, 5));
    assert_eq!(client.get("ranks", DEADLINE).unwrap(), b"5");
    assert!(client.check(&["key", "ranks"]).unwrap() && !client.check(&["key", "none"]).unwrap());
    client.wait(&["key", "ranks"], DEADLINE).unwrap();
    assert!(server.delete("key").unwrap() && !client.check(&["key"]).unwrap());
}

#[test]
fn prefixes_separate_keys() {
    let (server, client) = pair();
    let (a, b) = (server.prefixed("a").unwrap(), client.prefixed("b").unwrap());
    a.set("key", b"of a").unwrap();
    b.set("key", b"of b").unwrap();
    let read = |store: &Store, key: &str| store.get(key, DEADLINE).unwrap();
    assert_eq!((read(&a, "key"), read(&b, "key")), (b"of a".to_vec(), b"of b".to_vec()));
    assert_eq!(read(&client.prefixed("a").unwrap(), "key"), b"of a");
}

#[test]
fn get_waits_for_a_key_that_is_set_later() {
    let (server, client) = pair();
    let waiting = client.try_clone().unwrap();
    let waiter = std::thread::spawn(move || waiting.get("late", DEADLINE).unwrap());
    // The waiting thread has its own connection, so its wait does not block this one.
    client.set("other", b"1").unwrap();
    server.set("late", b"here").unwrap();
    assert_eq!(waiter.join().unwrap(), b"here");
}

#[test]
fn waits_end_at_their_deadline() {
    let (server, client) = pair();
    let check = |store: &Store, ask: fn(&Store) -> Result<(), Error>, expect: &str| {
        let start = Instant::now();
        let error = ask(store).unwrap_err();
        assert!(matches!(&error, Error::Deadline { after: SHORT, .. }), "{error:?}");
        assert!(error.to_string().contains(expect), "{error}");
        assert!((SHORT..DEADLINE).contains(&start.elapsed()), "{:?}", start.elapsed());
        // The connection still works.
        store.set("after", b"ok").unwrap();
        assert_eq!(store.get("after", DEADLINE).unwrap(), b"ok");
    };
    for store in [&server, &client] {
        check(
            store,
            |store| store.get("missing", SHORT).map(drop),
            "no rank set the key `missing`",
        );
        check(store, |store| store.wait(&["after", "missing"], SHORT), "`after`, `missing`");
    }
}

#[test]
fn join_waits_for_all_workers() {
    let (server, client) = pair();
    let other = std::thread::spawn(move || client.join().map(|()| client));
    server.join().unwrap();
    drop(other.join().unwrap().unwrap());

    let alone = TcpStore::server(HOST, 0, 2, Duration::from_secs(2)).unwrap();
    let error = alone.join().unwrap_err().to_string();
    assert!(error.contains(&alone.port().to_string()) && error.contains("1/2"), "{error}");
}

#[test]
fn connection_errors_name_the_address() {
    set_log_level(LogLevel::Fatal);
    let taken = TcpListener::bind((HOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let in_use = TcpStore::server(HOST, port, 1, SHORT).unwrap_err();
    assert!(matches!(&in_use, Error::Connect { action: "serve", .. }), "{in_use:?}");
    let start = format!("cannot serve the store at 127.0.0.1:{port} (timeout 300ms)");
    assert!(in_use.to_string().starts_with(&start), "{in_use}");
    assert!(in_use.to_string().contains("in use"), "{in_use}");

    drop(taken);
    let nobody = TcpStore::client(HOST, port, 1, SHORT).unwrap_err();
    let start = format!("cannot reach the store at 127.0.0.1:{port} (timeout 300ms)");
    assert!(nobody.to_string().starts_with(&start), "{nobody}");

    for (error, expect) in [
        (TcpStore::client(HOST, 0, 1, SHORT).unwrap_err(), "needs the port"),
        (TcpStore::server(HOST, 0, 0, SHORT).unwrap_err(), "a world size of at least 1"),
        (TcpStore::server("a\0b", 0, 1, SHORT).unwrap_err(), "NUL byte"),
    ] {
        assert!(matches!(error, Error::Argument(_)) && error.to_string().contains(expect), "{error}");
    }
}
