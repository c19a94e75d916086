use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;

use orrery_proto::v1::ErrorType;
use serde_json::json;

use super::{has, open, open_to_all, python, stdout};
use crate::support::{failed, supervised};

const REACH: &str = r#"
import socket, sys
tcp, udp, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def reached(name, family, kind, address):
    try:
        with socket.socket(family, kind) as one:
            one.connect(address)
            one.send(b"x")
        print(name)
    except OSError:
        pass
reached("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", tcp))
reached("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", udp))
reached("unix", socket.AF_UNIX, socket.SOCK_STREAM, path)
reached("abstract", socket.AF_UNIX, socket.SOCK_STREAM, "\0" + path)
"#;

/// What of the host's services a process reaches at a level.
async fn reached(level: &str, network: Option<bool>) -> Vec<String> {
    use std::os::linux::net::SocketAddrExt as _;
    let (_dir, outside) = open_to_all();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let path = outside.join("socket");
    let _unix = UnixListener::bind(&path).unwrap();
    open(&path, 0o777);
    let name = std::os::unix::net::SocketAddr::from_abstract_name(path.to_str().unwrap()).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    let ports = [tcp.local_addr().unwrap().port().to_string(), udp.local_addr().unwrap().port().to_string()];
    let args = [ports[0].as_str(), ports[1].as_str(), path.to_str().unwrap()];
    let mut sandbox = json!({"level": level});
    if let Some(network) = network {
        sandbox["network"] = network.into();
    }
    let text = stdout(&python(&supervised(), sandbox, REACH, &args).await);
    // A datagram is sent where nobody hears it, too: it counts where it has come.
    udp.set_nonblocking(true).unwrap();
    let heard = udp.recv(&mut [0]).is_ok();
    text.lines().filter(|line| *line != "udp" || heard).map(str::to_owned).collect()
}

#[tokio::test]
async fn nothing_is_reached_where_the_network_is_off() {
    for level in ["process", "container"] {
        if has(&supervised(), "no network", json!({"level": level, "network": false})).await {
            assert_eq!(reached(level, Some(false)).await, [""; 0], "{level}");
        }
    }
}

#[tokio::test]
async fn it_is_the_hosts_where_it_is_on() {
    if has(&supervised(), "a network", json!({"level": "process"})).await {
        // Sockets with a path belong to the host's services, whom the process's user may or may not speak to.
        assert_eq!(reached("process", None).await, ["tcp", "udp", "unix"]);
    }
    if has(&supervised(), "a network", json!({"level": "container"})).await {
        assert_eq!(reached("container", Some(true)).await, ["tcp", "udp"]);
    }
    assert_eq!(reached("none", None).await, ["tcp", "udp", "unix", "abstract"]);
}

#[tokio::test]
async fn an_agent_may_give_none() {
    let mut settings = supervised();
    if !has(&settings, "an agent without a network", json!({"level": "process"})).await {
        return;
    }
    settings.sandbox.network = false;
    let outcome = python(&settings, json!({"level": "process", "network": true}), "pass", &[]).await;
    failed(&outcome, ErrorType::ValidationError, &["config.sandbox.network", "this agent gives none"]);
    let script = "import socket\ntry: socket.socket()\nexcept PermissionError: print('none')";
    assert_eq!(stdout(&python(&settings, json!({"level": "process"}), script, &[]).await), "none\n");
}
