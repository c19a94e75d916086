//! Lists by pages.

use serde_json::{Value, json};

use crate::world::{EXECUTIONS, JOBS, World, hourly, id};

/// All pages of a list, by the names of what they hold.
async fn pages(world: &World, path: &str, list: &str, field: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let separator = if path.contains('?') { '&' } else { '?' };
        let body = world.get(&format!("{path}{separator}pageToken={token}")).await.ok();
        let row = |row: &Value| row[field].as_str().unwrap().to_owned();
        pages.push(body[list].as_array().unwrap().iter().map(row).collect());
        token = body["nextPageToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return pages;
        }
    }
}

#[tokio::test]
async fn every_row_is_on_one_page() {
    let world = World::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        world.job(name, json!({"maxConcurrent": 0})).await;
    }
    let jobs = pages(&world, &format!("{JOBS}?pageSize=2"), "jobs", "name").await;
    assert_eq!(jobs, [vec!["e", "d"], vec!["c", "b"], vec!["a"]]);
    assert_eq!(pages(&world, &format!("{JOBS}?pageSize=5"), "jobs", "name").await.len(), 1);
    let job = world.get(&format!("{JOBS}?name=a")).await.ok()["jobs"][0].clone();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(id(&world.trigger(&job).await).to_owned());
    }
    made.reverse();
    let executions = pages(&world, &format!("{EXECUTIONS}?pageSize=2"), "executions", "id").await;
    assert_eq!(executions.concat(), made);
    assert_eq!(executions.len(), 3);
}

#[tokio::test]
async fn a_token_from_elsewhere_is_refused() {
    let world = World::new().await;
    world.post(&format!("{JOBS}/batch-create"), json!({"jobs": [hourly("a"), hourly("b")]})).await.ok();
    let token = world.get(&format!("{JOBS}?pageSize=1")).await.ok()["nextPageToken"].as_str().unwrap().to_owned();
    world.get(&format!("{JOBS}?pageToken={token}&status=active")).await.refused(400, "INVALID_PAGE_TOKEN");
    world.get(&format!("{EXECUTIONS}?pageToken={token}")).await.refused(400, "INVALID_PAGE_TOKEN");
    world.get(&format!("/api/v1/scheduler/workers?pageToken={token}")).await.refused(400, "INVALID_PAGE_TOKEN");
    let other = world.with_key(Some(uuid::Uuid::from_u128(9)), &["*"]).await;
    other.get(&format!("{JOBS}?pageToken={token}")).await.refused(400, "INVALID_PAGE_TOKEN");
}
