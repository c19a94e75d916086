//! Dead letters: over REST, and by the command line.

use std::process::Output;
use std::time::Duration;

use orrery_proto::v1::ExecutionStatus;
use orrery_server::store::{Leases, Sessions};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{EXECUTIONS, World, id};

const DEAD_LETTERS: &str = "/api/v1/scheduler/dead-letters";

/// A job whose agents are lost at once.
pub(crate) async fn poison(world: &World, name: &str, changes: Value) -> (Value, String) {
    let mut definition = json!({"cronExpression": null, "manual": true, "delivery": "at_most_once"});
    crate::world::merge(&mut definition, changes);
    let job = world.job(name, definition).await;
    let run = lost(world, &job).await;
    (job, run)
}

/// An execution that is given up.
async fn lost(world: &World, job: &Value) -> String {
    let run = world.trigger(job).await;
    let path = format!("{EXECUTIONS}/{}", id(&run));
    for _ in 0..3 {
        let agent = world.agent().await;
        world.start(&agent).await;
        world.store.renew_sessions(&[(agent.id, agent.attachment)], Duration::ZERO).await.unwrap();
        world.store.reap(Duration::ZERO, 100).await.unwrap();
        if world.get(&path).await.ok()["status"] == "failed" {
            return id(&run).to_owned();
        }
    }
    panic!("it is not given up");
}

/// `orrery` against this server.
pub(crate) async fn orrery(world: &World, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_orrery"));
    let server = format!("http://{}", world.grpc);
    command.args(["--server", &server]).args(args).env_remove("ORRERY_API_KEY").output().await.unwrap()
}

pub(crate) fn said(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_dead_letter_is_shown_and_discarded() {
    let world = World::new().await;
    let (job, run) = poison(&world, "poison", json!({"delivery": "at_least_once"})).await;
    let execution = world.get(&format!("{EXECUTIONS}/{run}")).await.ok();
    assert_eq!((&execution["status"], &execution["quarantined"]), (&json!("failed"), &json!("leases_lost")));
    let letter = world.get(&format!("{DEAD_LETTERS}/{run}")).await.ok();
    for (field, value) in [
        ("executionId", json!(run)),
        ("jobId", job["id"].clone()),
        ("jobName", json!("poison")),
        ("reason", json!("leases_lost")),
        ("message", execution["errorMessage"].clone()),
        ("losses", json!(3)),
        ("lastWorker", json!("agent-1")),
        ("state", json!("open")),
        ("releasedAs", json!("")),
        ("decidedBy", json!("")),
    ] {
        assert_eq!(letter[field], value, "{field}: {letter}");
    }
    let discard = format!("{DEAD_LETTERS}/{run}/discard");
    world.post(&discard, json!({"reason": "x".repeat(1001)})).await.refused(400, "INVALID_ARGUMENT");
    let discarded = world.post(&discard, json!({"reason": "a bad host"})).await.ok();
    assert_eq!((&discarded["state"], &discarded["note"]), (&json!("discarded"), &json!("a bad host")));
    assert!(discarded["decidedAt"].is_string() && discarded["decidedBy"] != "");
    assert_eq!(world.post(&discard, json!({})).await.ok(), discarded);
    world.post(&format!("{DEAD_LETTERS}/{run}/release"), json!({})).await.refused(409, "DEAD_LETTER_DISCARDED");
    let ordinary = world.job("ordinary", json!({"cronExpression": null, "manual": true})).await;
    let ordinary = world.trigger(&ordinary).await;
    let agent = world.agent().await;
    let grants = world.start(&agent).await;
    world.finish(&agent, &grants[0], ExecutionStatus::Failed, "null").await;
    assert_eq!(world.get(&format!("{EXECUTIONS}/{}", id(&ordinary))).await.ok()["quarantined"], "");
    for unknown in [id(&ordinary).to_owned(), Uuid::nil().to_string()] {
        world.get(&format!("{DEAD_LETTERS}/{unknown}")).await.refused(404, "DEAD_LETTER_NOT_FOUND");
        for call in ["discard", "release"] {
            let answer = world.post(&format!("{DEAD_LETTERS}/{unknown}/{call}"), json!({})).await;
            answer.refused(404, "DEAD_LETTER_NOT_FOUND");
        }
    }
}

#[tokio::test]
async fn a_dead_letter_is_released_within_the_jobs_limit() {
    let world = World::new().await;
    let (job, run) = poison(&world, "poison", json!({"maxConcurrent": 1})).await;
    let release = format!("{DEAD_LETTERS}/{run}/release");
    let busy = world.trigger(&job).await;
    world.post(&release, json!({})).await.refused(409, "JOB_ALREADY_RUNNING");
    world.post(&format!("{EXECUTIONS}/{}/cancel", id(&busy)), json!({})).await.ok();
    let made = world.post(&release, json!({})).await.ok();
    assert_eq!((&made["retryOf"], &made["triggerType"]), (&json!(run), &json!("retry")));
    assert_eq!(world.post(&release, json!({})).await.ok()["id"], made["id"], "twice is once");
    let refused = world.post(&format!("{DEAD_LETTERS}/{run}/discard"), json!({})).await;
    assert_eq!(refused.refused(409, "DEAD_LETTER_RELEASED")["details"]["releasedAs"], made["id"]);
    let agent = world.agent().await;
    world.run_all(&agent, "{}").await;
    assert_eq!(world.get(&format!("{EXECUTIONS}/{}", id(&made))).await.ok()["status"], "completed");
    let letter = world.get(&format!("{DEAD_LETTERS}/{run}")).await.ok();
    assert_eq!((&letter["state"], &letter["releasedAs"]), (&json!("released"), &made["id"]));
    assert_eq!(world.get(&format!("{EXECUTIONS}/{run}")).await.ok()["status"], "failed", "for ever");
}

#[tokio::test]
async fn dead_letters_are_listed_by_page_and_by_tenant() {
    let world = World::new().await;
    let (a, first) = poison(&world, "a", json!({})).await;
    let (_, second) = poison(&world, "b", json!({})).await;
    let third = lost(&world, &a).await;
    let listed = world.get(&format!("{DEAD_LETTERS}?pageSize=2")).await.ok();
    let ids = |list: &Value| -> Vec<String> {
        let letters = list["deadLetters"].as_array().unwrap().iter();
        letters.map(|letter| letter["executionId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&listed), [third.clone(), second.clone()]);
    let token = listed["nextPageToken"].as_str().unwrap();
    let rest = world.get(&format!("{DEAD_LETTERS}?pageSize=2&pageToken={token}")).await.ok();
    assert_eq!((ids(&rest), &rest["nextPageToken"]), (vec![first.clone()], &json!("")));
    let of_a = world.get(&format!("{DEAD_LETTERS}?jobId={}", id(&a))).await.ok();
    assert_eq!(ids(&of_a), [third.clone(), first.clone()]);
    let wrong = format!("{DEAD_LETTERS}?jobId={}&pageToken={token}", id(&a));
    world.get(&wrong).await.refused(400, "INVALID_PAGE_TOKEN");
    world.post(&format!("{DEAD_LETTERS}/{first}/discard"), json!({})).await.ok();
    assert_eq!(ids(&world.get(&format!("{DEAD_LETTERS}?state=discarded")).await.ok()), [first]);
    let other = world.with_key(Some(Uuid::from_u128(9)), &["*"]).await;
    assert!(ids(&other.get(DEAD_LETTERS).await.ok()).is_empty());
    other.get(&format!("{DEAD_LETTERS}/{second}")).await.refused(404, "DEAD_LETTER_NOT_FOUND");
    let release = format!("{DEAD_LETTERS}/{second}/release");
    other.post(&release, json!({})).await.refused(404, "DEAD_LETTER_NOT_FOUND");
    let reader = other.with_key(None, &["executions:read"]).await;
    reader.post(&release, json!({})).await.refused(403, "PERMISSION_DENIED");
    reader.post(&format!("{DEAD_LETTERS}/{second}/discard"), json!({})).await.refused(403, "PERMISSION_DENIED");
}

#[tokio::test]
async fn the_command_line_decides_over_dead_letters() {
    let world = World::new().await;
    let (a, first) = poison(&world, "a", json!({})).await;
    let second = lost(&world, &a).await;
    let list = said(&orrery(&world, &["dead-letter", "list", "--job", "a"]).await);
    assert!(list.0 == 0 && list.1.lines().count() == 3, "{list:?}");
    assert!(list.1.contains(&first) && list.1.contains("may_have_run") && list.1.contains("agent-1"), "{list:?}");
    let show = said(&orrery(&world, &["dead-letter", "show", &first]).await);
    assert!(show.0 == 0 && show.1.contains("at_most_once forbids to repeat it"), "{show:?}");
    let discard = said(&orrery(&world, &["dead-letter", "discard", &first, "--reason", "known"]).await);
    assert_eq!(discard, (0, format!("the dead letter of execution {first} of a is discarded\n")));
    let refused = said(&orrery(&world, &["dead-letter", "release", &first]).await);
    assert!(refused.0 == 4 && refused.1.starts_with("error[DEAD_LETTER_DISCARDED]"), "{refused:?}");
    let unknown = said(&orrery(&world, &["dead-letter", "show", &Uuid::nil().to_string()]).await);
    assert!(unknown.0 == 3 && unknown.1.starts_with("error[DEAD_LETTER_NOT_FOUND]"), "{unknown:?}");
    let released = said(&orrery(&world, &["--json", "dead-letter", "release", &second]).await);
    let run: Value = serde_json::from_str(&released.1).unwrap();
    assert_eq!((released.0, &run["retryOf"]), (0, &json!(second)));
    let open = said(&orrery(&world, &["dead-letter", "list", "--json"]).await);
    assert_eq!(serde_json::from_str::<Value>(&open.1).unwrap()["deadLetters"], json!([]), "all are decided");
    let any = said(&orrery(&world, &["dead-letters", "ls", "--state", "any", "--all", "--json"]).await);
    let any: Value = serde_json::from_str(&any.1).unwrap();
    assert_eq!(
        (&any["deadLetters"][0]["state"], &any["deadLetters"][1]["note"]),
        (&json!("released"), &json!("known"))
    );
}
