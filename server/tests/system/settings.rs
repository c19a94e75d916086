//! A coordinator that is set up wrong says so and does not start.

use crate::engine::Engine;
use crate::token::SECRET;
use crate::wait::SOON;
use crate::world::World;

#[tokio::test]
async fn what_is_missing_or_unsafe_is_named() {
    let world = World::new(Engine::Sqlite).await;
    let database = ("DATABASE_URL", world.database_url());
    let cases: [(&[(&str, &str)], &str); 17] = [
        (&[("ORRERY_JWT_SECRET", SECRET)], "DATABASE_URL"),
        (&[database], "ORRERY_JWT_SECRET"),
        (&[database, ("ORRERY_JWT_SECRET", "k7Qx2mVz9Lw4")], "12 bytes"),
        (&[database, ("ORRERY_JWT_SECRET", "your-secret-key-that-is-long-enough-1234")], "placeholder"),
        (&[database, ("ORRERY_JWT_SECRET", "changeme")], "placeholder"),
        (&[database], "ORRERY_KEY_PEPPER"),
        (
            &[database, ("ORRERY_KEY_PEPPER", "change-me-change-me-change-me-change-me")],
            "ORRERY_KEY_PEPPER is a placeholder",
        ),
        (
            &[database, ("ORRERY_JWT_SECRET", SECRET), ("INTERNAL_SERVICE_TOKEN", "your-internal-service-token")],
            "INTERNAL_SERVICE_TOKEN",
        ),
        (
            &[database, ("ORRERY_JWT_SECRET", SECRET), ("INTERNAL_SERVICE_TOKEN", "k7Qx2mVz9Lw4")],
            "INTERNAL_SERVICE_TOKEN has 12 bytes",
        ),
        (&[database, ("ORRERY_JWT_SECRET", SECRET), ("ORRERY_JWKS", "https://idp.example/jwks")], "ORRERY_JWT_ISSUER"),
        (
            &[
                database,
                ("ORRERY_JWT_SECRET", SECRET),
                ("ORRERY_JWT_ISSUER", "a"),
                ("ORRERY_JWKS", "http://idp.example"),
            ],
            "ORRERY_JWKS",
        ),
        (&[database, ("ORRERY_JWT_SECRET", SECRET), ("AUTH_SERVICE_URL", "auth-service")], "AUTH_SERVICE_URL"),
        (&[database, ("ORRERY_JWT_SECRET", SECRET), ("AUDIT_SERVICE_URL", "audit-service")], "AUDIT_SERVICE_URL"),
        (&[database, ("ORRERY_JWT_SECRET", SECRET), ("ORRERY_JWT_LEEWAY_SECONDS", "3600")], "120"),
        (&[("DATABASE_URL", "mysql://localhost/x"), ("ORRERY_JWT_SECRET", SECRET)], "postgres://"),
        (&[database, ("ORRERY_JWT_SECRET", SECRET), ("REDIS_URL", "localhost:6379")], "REDIS_URL: "),
        (&[database, ("ORRERY_JWT_SECRET", SECRET), ("LOG_LEVEL", "loud,=")], "log level"),
    ];
    let args = ["server", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    for (environment, told) in cases {
        let mut process = world.orrery("server", &args, environment);
        let status = process.ended(SOON).await;
        let text = process.stderr();
        assert_eq!(status.code(), Some(2), "{environment:?}: {text}");
        assert!(text.contains(told), "{told:?} is not in: {text}");
        assert!(
            !environment.iter().any(|(k, v)| *k == "ORRERY_JWT_SECRET" && text.contains(v) && *v != "changeme"),
            "{text}"
        );
        assert_eq!(process.stdout(), "");
    }
}
