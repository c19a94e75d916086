//! The certificates of now: read at the start, and again whenever their files change.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::material::{Face, Files, Material};
use super::{AgentAuth, TlsError, TlsSettings};
use crate::ca::Authority;

/// How often the files are looked at. Their contents are compared, since what replaces them (a copy, a link, a mounted secret) may keep their
/// times.
const LOOK: Duration = Duration::from_secs(1);
/// From when on the end of a certificate is warned of, at each start and change.
const NEAR: chrono::Duration = chrono::Duration::days(14);

/// How connections are secured now. Cheap to clone; all clones see a change.
#[derive(Clone)]
pub struct Tls {
    settings: Arc<TlsSettings>,
    current: Option<Arc<RwLock<Current>>>,
}

struct Current {
    material: Arc<Material>,
    fingerprint: [u8; 32],
}

impl Tls {
    /// No TLS: everything is plain, and no agent has a certificate.
    pub fn off() -> Self {
        Self { settings: Arc::default(), current: None }
    }

    /// Reads the files of the settings.
    ///
    /// # Errors
    /// Where settings or files are of no use; a coordinator does not start without the TLS that it was told to serve.
    pub fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        settings.check()?;
        let current = match Files::read(settings)? {
            None => None,
            Some(files) => {
                let material = files.material(Utc::now())?;
                announce(&material);
                let current = Current { material: Arc::new(material), fingerprint: files.fingerprint() };
                Some(Arc::new(RwLock::new(current)))
            }
        };
        Ok(Self { settings: Arc::new(settings.clone()), current })
    }

    /// Whether connections are secured at all.
    pub fn is_on(&self) -> bool {
        self.current.is_some()
    }

    /// What a connection of now is served with; `None` without TLS.
    pub(super) fn config(&self, face: Face) -> Option<Arc<ServerConfig>> {
        let material = self.material()?;
        Some(match face {
            Face::Grpc => material.grpc.clone(),
            Face::Rest => material.rest.clone(),
        })
    }

    /// The authority that lets agents in, where this coordinator has its key.
    pub fn authority(&self) -> Option<Arc<Authority>> {
        self.material()?.authority.clone()
    }

    /// How long an agent's certificate is good.
    pub fn agent_life(&self) -> chrono::Duration {
        chrono::Duration::seconds(i64::from(self.settings.agent_cert_seconds))
    }

    /// How agents may show who they are.
    pub fn agent_auth(&self) -> AgentAuth {
        self.settings.agent_auth
    }

    fn material(&self) -> Option<Arc<Material>> {
        let current = self.current.as_ref()?;
        Some(current.read().unwrap_or_else(PoisonError::into_inner).material.clone())
    }

    /// Takes changed files up until the end. What is broken is said, and what was served before goes on.
    pub async fn keep(self, shutdown: CancellationToken) {
        let Some(current) = self.current.clone() else { return };
        // Files are replaced one after the other: what does not fit together is complained of where it stays so, once.
        let (mut broken, mut told) = (None, None);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let settings = self.settings.clone();
            let looked = tokio::task::spawn_blocking(move || look(&settings, Utc::now())).await;
            let Ok((state, read)) = looked else { continue };
            match read {
                Ok(material) => {
                    (broken, told) = (None, None);
                    let mut current = current.write().unwrap_or_else(PoisonError::into_inner);
                    if state != State::Read(current.fingerprint)
                        && let State::Read(fingerprint) = state
                    {
                        announce(&material);
                        *current = Current { material: Arc::new(material), fingerprint };
                    }
                }
                Err(error) => {
                    let is_news = broken.as_ref() == Some(&state) && told.as_ref() != Some(&state);
                    if is_news && state != State::Read(fingerprint_of(&current)) {
                        tracing::error!(%error, "the new TLS files cannot be used; those before go on being served");
                        told = Some(state.clone());
                    }
                    broken = Some(state);
                }
            }
        }
    }
}

/// What was found at a look.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Unreadable(String),
    Read([u8; 32]),
}

fn look(settings: &TlsSettings, now: DateTime<Utc>) -> (State, Result<Material, TlsError>) {
    match Files::read(settings) {
        Ok(Some(files)) => (State::Read(files.fingerprint()), files.material(now)),
        Ok(None) => (State::Unreadable(String::new()), Err(TlsError::Expired)),
        Err(error) => (State::Unreadable(error.to_string()), Err(error)),
    }
}

fn fingerprint_of(current: &RwLock<Current>) -> [u8; 32] {
    current.read().unwrap_or_else(PoisonError::into_inner).fingerprint
}

fn announce(material: &Material) {
    let expires_at = material.expires_at;
    tracing::info!(%expires_at, enrols = material.authority.is_some(), "serving TLS 1.3");
    if expires_at - Utc::now() < NEAR {
        tracing::warn!(%expires_at, "the certificate of ORRERY_TLS_CERT ends soon");
    }
}
