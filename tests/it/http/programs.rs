//! Programs that people use, before the edge and behind it.

use std::fs;
use std::process::{Command, Output};

use super::peers::{Asking, Origin, before, get, ok, once, request, says, site};
use super::upgrades::Node;
use crate::support::{Balancer, Edge, Refusing, Row, noise};

fn curl(edge: &Edge, arguments: &[&str], paths: &[&str]) -> Output {
    let urls = paths.iter().map(|path| format!("http://{}{path}", edge.addr));
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20"])
        .args(arguments)
        .args(urls)
        .output()
        .expect("curl runs");
    assert!(output.status.success(), "{output:?}");
    output
}

/// nginx with a folder of files, behind an edge.
fn nginx(more: &str) -> (Balancer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("big"), noise(3, 5 << 20)).unwrap();
    fs::write(folder.path().join("small"), "small").unwrap();
    let port = Refusing::new();
    let text = format!(
        "http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; \
         fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         server {{ listen {}; root {}; {more}\n\
         location = /echo {{ return 200 \"$http_x_forwarded_for $http_via $http_connection.\"; }} }} }}",
        port.addr(),
        folder.path().display()
    );
    // Its workers are of no user that a folder of ours could be read by.
    (Balancer::nginx(port, &format!("user root;\n{text}")), folder)
}

#[test]
fn curl_gets_what_nginx_has() {
    let (nginx, folder) = nginx("");
    let edge = site().backend(Row::new("a", nginx.addr())).start();
    let big = fs::read(folder.path().join("big")).unwrap();
    for how in ["--http1.1", "--http1.0", "--http2"] {
        let output = curl(&edge, &[how], &["/big", "/small", "/big"]);
        let expected = [&big[..], b"small", &big].concat();
        assert!(output.stdout == expected, "{how}: {} bytes", output.stdout.len());
    }
    let part = curl(&edge, &["-r", "1000-1999"], &["/big"]);
    assert!(part.stdout == big[1000..2000], "a part of it");
    let head = String::from_utf8(curl(&edge, &["-I"], &["/big", "/small"]).stdout).unwrap();
    assert_eq!(head.to_lowercase().matches("content-length: 5").count(), 2, "{head}");
    let told = String::from_utf8(curl(&edge, &[], &["/echo"]).stdout).unwrap();
    assert_eq!(told, "127.0.0.1 1.1 edge-proxy .");
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let (nginx, _folder) = nginx("");
    let edge = site().backend(Row::new("a", nginx.addr())).start();
    let mut client = Asking::to(&edge);
    let tag = client.get("/small").field("etag").unwrap().to_owned();
    for _ in 0..3 {
        let answer = client.ask(&request("GET", "/small", &format!("If-None-Match: {tag}\r\n")));
        assert_eq!(answer.status(), 304);
    }
    assert_eq!(client.get("/small").text(), "small");
}

#[test]
fn nginx_that_closes_after_some_requests_costs_none() {
    let (nginx, _folder) = nginx("keepalive_requests 7; keepalive_timeout 1s;");
    for pool in ["true", "false"] {
        let edge =
            site().env("EDGEPROXY_POOL_ENABLED", pool).backend(Row::new("a", nginx.addr())).start();
        let mut client = Asking::to(&edge);
        for number in 0..100 {
            assert_eq!(client.get("/small").text(), "small", "{number}");
        }
    }
}

const NODE: &str = r"
const http = require('http');
http.createServer((request, response) => {
  if (request.url === '/chunks') {
    response.writeHead(200, { Trailer: 'X-Sum' });
    let left = 20;
    const next = () => {
      if (left-- > 0) { response.write('piece ' + left + '\n'); setImmediate(next); return; }
      response.addTrailers({ 'X-Sum': 'twenty' });
      response.end();
    };
    return next();
  }
  if (request.url === '/hints') {
    response.writeEarlyHints({ link: '</a.css>; rel=preload' });
    return response.end('hinted');
  }
  let length = 0;
  request.on('data', (data) => { length += data.length; });
  request.on('end', () => response.end(request.method + ' ' + length + ' ' + request.headers.host));
}).listen(0, '127.0.0.1', function () { console.log('port ' + this.address().port); });
";

#[test]
fn a_server_of_node_is_understood() {
    let node = Node::run(NODE, &[]);
    let edge = site().backend(Row::new("a", node.addr())).start();
    let mut client = Asking::to(&edge);
    for _ in 0..3 {
        let answer = client.get("/chunks");
        assert_eq!(answer.text().lines().count(), 20);
        assert_eq!(answer.trailers, [("X-Sum".to_owned(), "twenty".to_owned())]);
        assert_eq!(client.get("/hints").status(), 103);
        assert_eq!(client.answer("GET").unwrap().text(), "hinted");
        let body = "5\r\nhello\r\n0\r\n\r\n";
        let answer = client.ask(&(request("PUT", "/", "Transfer-Encoding: chunked\r\n") + body));
        assert_eq!(answer.text(), "PUT 5 web");
    }
    let file = edge.site.path("body");
    fs::write(&file, noise(4, 3 << 20)).unwrap();
    let data = format!("@{}", file.display());
    let output = curl(&edge, &["-H", "Host: web", "--data-binary", &data], &["/up"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("POST {} web", 3 << 20));
}

const FETCHING: &str = r"
const [base] = process.argv.slice(1);
(async () => {
  let sum = 0;
  for (let round = 0; round < 20; round++) {
    const answers = await Promise.all([...Array(10).keys()].map(async (number) => {
      const body = number % 2 ? 'x'.repeat(number * 1000) : undefined;
      const answer = await fetch(base + '/' + number, { method: body ? 'POST' : 'GET', body });
      return (await answer.text()) === '/' + number + ' ' + (body || '').length;
    }));
    sum += answers.filter(Boolean).length;
  }
  console.log('right ' + sum);
  process.exit(0);
})().catch((error) => { console.log('right ' + error); process.exit(1); });
";

#[test]
fn nodes_fetch_is_served() {
    let origin = Origin::new(|seen, reader| {
        says(reader, ok(&format!("{} {}", seen.message.path(), seen.message.body.len())))
    });
    let edge = before(&origin).env("EDGEPROXY_POOL_ENABLED", "true").start();
    let client = Node::run(FETCHING, &[&format!("http://{}", edge.addr)]);
    assert_eq!(client.says("right "), "200");
}

#[test]
fn wrk_sees_no_error() {
    if Command::new("wrk").arg("-v").output().is_err() {
        return;
    }
    let (nginx, _folder) = nginx("");
    let edge =
        site().env("EDGEPROXY_POOL_ENABLED", "true").backend(Row::new("a", nginx.addr())).start();
    let output = Command::new("wrk")
        .args(["-t1", "-c20", "-d1s", &format!("http://{}/small", edge.addr)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Requests/sec") && !said.contains("Socket errors"), "{said}");
    assert!(!said.contains("Non-2xx"), "{said}");
    assert_eq!(once(&edge, &get("/small")).text(), "small");
}
