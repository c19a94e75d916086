use std::time::Duration;

use chrono::Utc;
use orrery_proto::v1::LogStream;

use super::buffer::OVERHEAD;
use super::*;

fn logs(attempt: u64, buffer: usize) -> (Logs, LeaseKey) {
    let logs = Logs::new(Budget { attempt, buffer });
    let key = LeaseKey::new("e", 1);
    logs.open(&key, 1);
    (logs, key)
}

fn texts(batch: &Batch) -> Vec<(LogStream, String)> {
    batch.chunks.iter().map(|c| (c.stream(), String::from_utf8_lossy(&c.data).into_owned())).collect()
}

#[tokio::test]
async fn pieces_of_one_stream_are_joined_in_order() {
    let (logs, key) = logs(1 << 20, 1 << 20);
    let at = Utc::now();
    for (stream, text) in
        [(LogStream::Stdout, "a"), (LogStream::Stdout, "b"), (LogStream::Stderr, "c"), (LogStream::Stdout, "d")]
    {
        logs.push(&key, stream, text.as_bytes(), at);
    }
    let batch = logs.take().expect("output");
    assert_eq!(
        texts(&batch),
        [(LogStream::Stdout, "ab".into()), (LogStream::Stderr, "c".into()), (LogStream::Stdout, "d".into())]
    );
    assert!(logs.take().is_none());
    logs.settle(&batch);
    assert_eq!(logs.lock().used, 0);
}

#[tokio::test]
async fn what_passes_the_budget_is_dropped_and_counted() {
    let (logs, key) = logs(5, 1 << 20);
    logs.push(&key, LogStream::Stdout, b"1234", Utc::now());
    logs.push(&key, LogStream::Stdout, b"5678", Utc::now());
    logs.push(&key, LogStream::Stdout, b"9", Utc::now());
    logs.close(&key, Utc::now(), Duration::ZERO).await;
    let batch = logs.take().expect("output");
    assert_eq!(
        texts(&batch),
        [(LogStream::Stdout, "12349".into()), (LogStream::System, "4 bytes of output were dropped\n".into())]
    );
    logs.settle(&batch);
    assert!(logs.lock().tasks.is_empty());
}

#[tokio::test]
async fn the_buffer_is_bounded_until_output_is_acknowledged() {
    let (logs, key) = logs(1 << 30, 4 * CHUNK);
    let data = vec![b'x'; CHUNK];
    for _ in 0..10 {
        logs.push(&key, LogStream::Stdout, &data, Utc::now());
    }
    assert!(logs.lock().used <= 4 * CHUNK);
    let batch = logs.take().expect("output");
    assert_eq!(batch.chunks.len(), 3);
    logs.push(&key, LogStream::Stdout, &data, Utc::now());
    assert!(logs.take().is_none(), "what is under way still counts");
    logs.settle(&batch);
    logs.push(&key, LogStream::Stdout, &data, Utc::now());
    assert!(logs.take().is_some());
    assert_eq!(logs.lock().tasks[&key].dropped, 8 * CHUNK as u64);
}

#[tokio::test]
async fn a_task_does_not_keep_the_others_waiting() {
    let (logs, key) = logs(1 << 30, 1 << 20);
    let other = LeaseKey::new("quiet", 1);
    logs.open(&other, 1);
    logs.push(&key, LogStream::Stdout, &vec![b'x'; 6 * CHUNK], Utc::now());
    logs.push(&other, LogStream::Stdout, b"me", Utc::now());
    let batch = logs.take().expect("output");
    assert_eq!(batch.chunks[1].execution_id, "quiet");
}

#[tokio::test]
async fn dropping_everything_frees_the_buffer_once() {
    let (logs, key) = logs(1 << 20, 1 << 20);
    logs.push(&key, LogStream::Stdout, b"old", Utc::now());
    let batch = logs.take().expect("output");
    logs.clear();
    logs.push(&key, LogStream::Stdout, b"new", Utc::now());
    logs.settle(&batch);
    assert_eq!(logs.lock().used, 3 + OVERHEAD);
    logs.discard(&key);
    assert_eq!(logs.lock().used, 0);
}

fn bytes(batch: &Batch) -> Vec<(LogStream, &[u8])> {
    batch.chunks.iter().map(|chunk| (chunk.stream(), chunk.data.as_slice())).collect()
}

#[tokio::test]
async fn a_character_waits_for_its_rest() {
    let (logs, key) = logs(1 << 20, 1 << 20);
    let (out, err) = (LogStream::Stdout, LogStream::Stderr);
    let at = Utc::now();
    logs.push(&key, out, b"a\xE2", at);
    logs.push(&key, err, b"b\xC3", at);
    let batch = logs.take().expect("output");
    assert_eq!(bytes(&batch), [(out, &b"a"[..]), (err, b"b")]);
    logs.push(&key, out, b"\x82", at);
    assert!(logs.take().is_none(), "still not whole");
    logs.push(&key, err, b"\xA4", at);
    logs.push(&key, out, b"\xACc\xFF", at);
    let batch = logs.take().expect("output");
    assert_eq!(
        bytes(&batch),
        [(err, "ä".as_bytes()), (out, b"\xE2\x82\xACc\xFF")],
        "what is invalid anyway goes at once"
    );
}

#[tokio::test]
async fn what_was_cut_short_for_good_is_told_at_the_end() {
    let (logs, key) = logs(1 << 20, 1 << 20);
    logs.push(&key, LogStream::Stdout, b"\xF0\x9F\x98", Utc::now());
    assert!(logs.take().is_none());
    logs.close(&key, Utc::now(), Duration::ZERO).await;
    let batch = logs.take().expect("output");
    assert_eq!(bytes(&batch), [(LogStream::Stdout, &b"\xF0\x9F\x98"[..])]);
    logs.settle(&batch);
    assert!(logs.lock().tasks.is_empty());
    assert_eq!(logs.lock().used, 0);
}

#[tokio::test]
async fn large_output_is_cut_between_characters() {
    let (logs, key) = logs(1 << 20, 1 << 20);
    logs.push(&key, LogStream::Stdout, "€".repeat(CHUNK).as_bytes(), Utc::now());
    logs.close(&key, Utc::now(), Duration::ZERO).await;
    let mut all = String::new();
    while let Some(batch) = logs.take() {
        for (_, data) in bytes(&batch) {
            assert!(data.len() <= CHUNK);
            all.push_str(std::str::from_utf8(data).expect("whole characters"));
        }
        logs.settle(&batch);
    }
    assert_eq!(all, "€".repeat(CHUNK));
}

#[tokio::test]
async fn a_character_of_which_half_was_dropped_is_dropped_whole() {
    let (logs, key) = logs(4, 1 << 20);
    logs.push(&key, LogStream::Stdout, b"12345\xE2", Utc::now());
    logs.push(&key, LogStream::Stdout, b"\x82\xAC", Utc::now());
    logs.close(&key, Utc::now(), Duration::ZERO).await;
    let batch = logs.take().expect("output");
    let dropped = (LogStream::System, "5 bytes of output were dropped\n".to_owned());
    assert_eq!(texts(&batch), [(LogStream::Stdout, "€".to_owned()), dropped]);
}

#[tokio::test]
async fn what_is_refused_counts_as_dropped() {
    let (logs, key) = logs(4, 1 << 20);
    let note = |bytes: usize| (LogStream::System, format!("{bytes} bytes of output were dropped\n"));
    let at = Utc::now();
    logs.push(&key, LogStream::Stdout, b"12", at);
    logs.give_up(&logs.take().expect("output"));
    logs.push(&key, LogStream::Stdout, b"toolong", at);
    logs.push(&key, LogStream::Stdout, b"34", at);
    logs.close(&key, at, Duration::ZERO).await;
    let last = logs.take().expect("output");
    assert_eq!(texts(&last), [(LogStream::Stdout, "34".to_owned()), note(9)]);
    logs.give_up(&last);
    let again = logs.take().expect("a note that counts what was refused with the first");
    assert_eq!(texts(&again), [note(11)]);
    assert!(again.chunks[0].number > last.chunks[1].number, "it is another chunk");
    logs.give_up(&again);
    assert!(logs.take().is_none(), "a refused note is not told for ever");
    assert!(logs.lock().tasks.is_empty());
    assert_eq!(logs.lock().used, 0);
}

#[tokio::test]
async fn what_is_refused_after_the_end_is_told_too() {
    let (logs, key) = logs(1 << 20, 1 << 20);
    logs.push(&key, LogStream::Stdout, b"12", Utc::now());
    let first = logs.take().expect("output");
    logs.push(&key, LogStream::Stdout, b"34", Utc::now());
    logs.close(&key, Utc::now(), Duration::ZERO).await;
    logs.give_up(&first);
    let second = logs.take().expect("output");
    logs.settle(&second);
    let note = logs.take().expect("a note");
    assert_eq!(texts(&note), [(LogStream::System, "2 bytes of output were dropped\n".to_owned())]);
}

#[tokio::test]
async fn the_newest_that_is_not_stored_is_kept_for_the_next_process() {
    let (logs, key) = logs(1 << 20, 1 << 20);
    let at = Utc::now();
    logs.push(&key, LogStream::Stdout, b"stored", at);
    let stored = logs.take().expect("output");
    logs.settle(&stored);
    logs.push(&key, LogStream::Stdout, b"under way", at);
    let flying = logs.take().expect("output");
    logs.push(&key, LogStream::Stderr, b"waiting", at);
    let tail = logs.seal(&key, at);
    let shown: Vec<_> = tail.iter().map(|c| (c.number, String::from_utf8_lossy(&c.data).into_owned())).collect();
    assert_eq!(shown, [(2, "under way".into()), (3, "waiting".into())]);
    assert_eq!(logs.take().expect("output").chunks, tail[1..], "as it is sent");
    logs.settle(&flying);

    let next = Logs::new(Budget { attempt: 1 << 20, buffer: 1 << 20 });
    next.restore(tail.clone());
    let batch = next.take().expect("output");
    assert_eq!(batch.chunks, tail, "under the same numbers, so that it is stored once");
    next.settle(&batch);
    assert!(next.lock().tasks.is_empty() && next.lock().used == 0);
}

#[tokio::test]
async fn what_is_kept_for_the_next_process_is_bounded() {
    let (logs, key) = logs(1 << 30, 1 << 30);
    for number in 0..100 {
        // Streams in turns, so that pieces are not joined.
        let stream = if number % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr };
        logs.push(&key, stream, &[b'x'; 1000], Utc::now());
    }
    let tail = logs.seal(&key, Utc::now());
    assert!(tail.len() > 10 && tail.len() <= TAIL / 1000, "{}", tail.len());
    assert_eq!(tail.last().map(|chunk| chunk.number), Some(100));
}
