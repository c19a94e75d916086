//! A coordinator that is set up wrong says so and does not start.

use crate::engine::Engine;
use crate::token::SECRET;
use crate::wait::SOON;
use crate::world::World;

#[tokio::test]
async fn what_is_missing_or_unsafe_is_named() {
    let world = World::new(Engine::Sqlite).await;
    let database = ("DATABASE_URL", world.database_url());
    let cases: [(&[(&str, &str)], &str); 8] = [
        (&[("ORRERY_JWT_SECRET", SECRET)], "DATABASE_URL"),
        (&[database], "ORRERY_JWT_SECRET"),
        (&[database, ("ORRERY_JWT_SECRET", "k7Qx2mVz9Lw4")], "12 bytes"),
        (&[database, ("ORRERY_JWT_SECRET", "your-secret-key-that-is-long-enough-1234")], "placeholder"),
        (&[database, ("ORRERY_JWT_SECRET", "changeme")], "placeholder"),
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
