use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::wait::{SOON, until};

/// A caller of the REST API, as curl is one.
#[derive(Clone)]
pub(crate) struct Rest {
    http: reqwest::Client,
    origin: String,
    bearer: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The answer of a call that must succeed.
    pub(crate) fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        self.json()
    }

    /// The error of a call that must be refused so.
    pub(crate) fn refused(&self, status: u16, code: &str) -> Value {
        let error = self.json()["error"].clone();
        assert_eq!((self.status, error["code"].as_str()), (status, Some(code)), "{}", self.text);
        error
    }
}

impl Rest {
    pub(crate) fn new(origin: &str, bearer: Option<String>) -> Self {
        // Refused where it is done already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { http, origin: origin.to_owned(), bearer }
    }

    pub(crate) fn with(&self, bearer: Option<&str>) -> Self {
        Self { bearer: bearer.map(ToOwned::to_owned), ..self.clone() }
    }

    /// A call of the scheduler's API. `path` begins after /api/v1/scheduler.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await?;
        Ok(Answer { status: response.status().as_u16(), text: response.text().await? })
    }

    /// A call of any path, with the caller's credentials.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<String>) -> Answer {
        let mut request = self.request_of(method, path);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.unwrap();
        Answer { status: response.status().as_u16(), text: response.text().await.unwrap() }
    }

    /// A request with the caller's credentials.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.request_of(method, &format!("/api/v1/scheduler{path}"))
    }

    fn request_of(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.origin));
        match &self.bearer {
            Some(bearer) => request.bearer_auth(bearer),
            None => request,
        }
    }

    /// GET of a path outside the scheduler's API.
    pub(crate) async fn root(&self, path: &str) -> Answer {
        self.elsewhere(&self.origin, path).await
    }

    /// GET of a path of another listener.
    pub(crate) async fn elsewhere(&self, origin: &str, path: &str) -> Answer {
        let response = self.http.get(format!("{origin}{path}")).send().await.unwrap();
        Answer { status: response.status().as_u16(), text: response.text().await.unwrap() }
    }

    /// POST to a path outside the scheduler's API; what it answers, whatever that is.
    pub(crate) async fn at(&self, path: &str, body: &Value) -> String {
        let request = self.http.post(format!("{}{path}", self.origin)).body(body.to_string());
        request.send().await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, &[], Some(body.to_string())).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, &[], Some(body.to_string())).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], None).await
    }

    /// Makes a job and tells its id.
    pub(crate) async fn create(&self, definition: Value) -> String {
        id(&self.post("/jobs", definition).await.ok())
    }

    /// Makes a job without a schedule and tells its id.
    pub(crate) async fn create_manual(&self, name: &str, job_type: &str, config: Value) -> String {
        self.create(json!({"name": name, "manual": true, "jobType": job_type, "config": config})).await
    }

    pub(crate) async fn job(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}")).await.ok()
    }

    /// Triggers a job and tells the execution's id.
    pub(crate) async fn trigger(&self, job: &str) -> String {
        id(&self.post(&format!("/jobs/{job}/trigger"), json!({})).await.ok())
    }

    pub(crate) async fn execution(&self, id: &str) -> Value {
        self.get(&format!("/executions/{id}")).await.ok()
    }

    /// The executions of a job, the newest first.
    pub(crate) async fn executions(&self, job: &str) -> Vec<Value> {
        list(&self.get(&format!("/jobs/{job}/executions?pageSize=1000")).await.ok(), "executions")
    }

    pub(crate) async fn omissions(&self, job: &str) -> Vec<Value> {
        list(&self.get(&format!("/jobs/{job}/omissions?pageSize=1000")).await.ok(), "omissions")
    }

    /// The execution, once it holds.
    pub(crate) async fn execution_when(
        &self,
        id: &str,
        what: &str,
        within: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        let found = tokio::time::timeout(within, async {
            until(what, within * 2, async || {
                last = self.execution(id).await;
                holds(&last).then(|| last.clone())
            })
            .await
        });
        let found = found.await;
        found.unwrap_or_else(|_| panic!("in {within:?} it did not come to this: {what}; the execution is {last:#}"))
    }

    /// The execution, once an agent has begun it.
    pub(crate) async fn running(&self, id: &str) -> Value {
        let begun = |e: &Value| e["status"] == "running" && !e["startedAt"].is_null();
        self.execution_when(id, "it runs", SOON, begun).await
    }

    /// The execution, once it is over.
    pub(crate) async fn finished(&self, id: &str) -> Value {
        self.execution_when(id, "it is over", SOON, is_over).await
    }

    /// Triggers a job and waits for the end.
    pub(crate) async fn run(&self, job: &str) -> Value {
        let execution = self.trigger(job).await;
        self.finished(&execution).await
    }

    pub(crate) async fn workers(&self) -> Vec<Value> {
        list(&self.get("/workers").await.ok(), "workers")
    }
}

pub(crate) fn is_over(execution: &Value) -> bool {
    ["completed", "failed", "cancelled"].contains(&execution["status"].as_str().unwrap())
}

pub(crate) fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

pub(crate) fn list(value: &Value, field: &str) -> Vec<Value> {
    value[field].as_array().unwrap_or_else(|| panic!("no {field} in {value}")).clone()
}
