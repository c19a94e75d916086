//! Every call, one line each.

use orrery_proto::v1;
use tonic::Request;

use super::{Client, Messages};
use crate::error::Error;

/// Unary calls. Each fails with [`Error`], whose code is the documented one.
macro_rules! unary {
    ($service:ident: $($(#[$doc:meta])* $name:ident($request:ident) -> $answer:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// What the server refused it with, or UNAVAILABLE or DEADLINE_EXCEEDED where nobody answered.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$answer, Error> {
                    let mut client = self.services.$service.clone();
                    self.bounded(client.$name(self.request(request))).await
                }
            )*
        }
    };
}

/// Server-streaming calls.
macro_rules! streaming {
    ($service:ident: $($(#[$doc:meta])* $name:ident($request:ident) -> $answer:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// What the server refused it with, or UNAVAILABLE or DEADLINE_EXCEEDED where nobody answered.
                pub async fn $name(&self, request: v1::$request) -> Result<Messages<v1::$answer>, Error> {
                    let mut client = self.services.$service.clone();
                    // No deadline in the header: it would end the stream, not only its beginning.
                    self.bounded(client.$name(Request::new(request))).await.map(Messages)
                }
            )*
        }
    };
}

unary! { jobs:
    /// Defines a job.
    create_job(CreateJobRequest) -> Job;
    /// Defines many jobs, all or nothing.
    batch_create_jobs(BatchCreateJobsRequest) -> BatchCreateJobsResponse;
    /// A page of jobs, newest first.
    list_jobs(ListJobsRequest) -> ListJobsResponse;
    /// Reads one job.
    get_job(GetJobRequest) -> Job;
    /// Replaces a job's definition.
    update_job(UpdateJobRequest) -> Job;
    /// Deletes a job; its history stays until retention.
    delete_job(DeleteJobRequest) -> DeleteJobResponse;
    /// Checks a definition without saving it.
    validate_job(ValidateJobRequest) -> ValidateJobResponse;
    /// Runs a job now.
    trigger_job(TriggerJobRequest) -> Execution;
    /// Runs many jobs now, all or nothing.
    batch_trigger_jobs(BatchTriggerJobsRequest) -> BatchTriggerJobsResponse;
    /// Stops firing until resumed.
    pause_job(PauseJobRequest) -> Job;
    /// Fires again after pause or stop.
    resume_job(ResumeJobRequest) -> Job;
    /// Stops firing and cancels what waits or runs.
    stop_job(StopJobRequest) -> Job;
    /// The next fires of a job.
    preview_job(PreviewJobRequest) -> PreviewResponse;
    /// Why a job is not running now.
    explain_job(ExplainJobRequest) -> Explanation;
    /// A page of the fires that did not happen, newest first.
    list_omissions(ListOmissionsRequest) -> ListOmissionsResponse;
}

unary! { executions:
    /// A page of executions, newest first.
    list_executions(ListExecutionsRequest) -> ListExecutionsResponse;
    /// Reads one execution with its attempts.
    get_execution(GetExecutionRequest) -> Execution;
    /// Totals, rates and durations over a range.
    get_execution_stats(GetExecutionStatsRequest) -> ExecutionStats;
    /// Cancels an execution.
    cancel_execution(CancelExecutionRequest) -> Execution;
    /// Runs a finished execution again, as a new one.
    retry_execution(RetryExecutionRequest) -> Execution;
    /// Why an execution has not run.
    explain_execution(ExplainExecutionRequest) -> Explanation;
    /// A page of what an execution printed, oldest first.
    list_execution_logs(ListExecutionLogsRequest) -> ListExecutionLogsResponse;
}

streaming! { executions:
    /// The execution at every change, until it is finished.
    watch_execution(WatchExecutionRequest) -> Execution;
    /// What the execution printed and prints, until it is finished.
    follow_execution_logs(FollowExecutionLogsRequest) -> LogEntry;
}

unary! { dead_letters:
    /// A page of dead letters, newest first.
    list_dead_letters(ListDeadLettersRequest) -> ListDeadLettersResponse;
    /// Reads one dead letter.
    get_dead_letter(GetDeadLetterRequest) -> DeadLetter;
    /// Puts a dead letter aside.
    discard_dead_letter(DiscardDeadLetterRequest) -> DeadLetter;
    /// Runs the work of a dead letter again, as a new execution.
    release_dead_letter(ReleaseDeadLetterRequest) -> Execution;
}

unary! { scheduler:
    /// The scheduler's state, coordinator by coordinator.
    get_status(GetStatusRequest) -> Status;
    /// The numbers of the caller's tenant.
    get_metrics(GetMetricsRequest) -> Metrics;
    /// A page of queues with their depth.
    list_queues(ListQueuesRequest) -> ListQueuesResponse;
    /// Limits how many executions of a queue may run at once.
    set_queue(SetQueueRequest) -> Queue;
    /// A page of agents with their load.
    list_workers(ListWorkersRequest) -> ListWorkersResponse;
    /// Tells an agent to take no further work.
    drain_worker(DrainWorkerRequest) -> Worker;
    /// The next or previous instants of a cron expression.
    preview_cron(PreviewCronRequest) -> PreviewResponse;
    /// A cron expression in words.
    explain_cron(ExplainCronRequest) -> ExplainCronResponse;
    /// Whether the process is well.
    get_health(GetHealthRequest) -> Health;
    /// Whether the process can take calls.
    get_ready(GetReadyRequest) -> Ready;
}

unary! { auth:
    /// Signs in with a name and a password.
    login(LoginRequest) -> SignedIn;
    /// New tokens for a refresh token, which is good once.
    refresh(RefreshRequest) -> SignedIn;
    /// Ends the session of a refresh token.
    logout(LogoutRequest) -> LogoutResponse;
    /// Who calls.
    get_caller(GetCallerRequest) -> Caller;
    /// Sets the caller's own password.
    change_password(ChangePasswordRequest) -> SignedIn;
}

unary! { keys:
    /// Makes an API key, whose text is in the answer and nowhere else.
    create_key(CreateKeyRequest) -> CreateKeyResponse;
    /// A page of API keys, newest first.
    list_keys(ListKeysRequest) -> ListKeysResponse;
    /// Revokes an API key.
    revoke_key(RevokeKeyRequest) -> ApiKey;
}

unary! { users:
    /// Makes somebody who signs in with a password.
    create_user(CreateUserRequest) -> User;
    /// A page of users, newest first.
    list_users(ListUsersRequest) -> ListUsersResponse;
    /// Reads one user.
    get_user(GetUserRequest) -> User;
    /// Replaces a user's display name and roles.
    update_user(UpdateUserRequest) -> User;
    /// Keeps a user from signing in, and ends its sessions.
    disable_user(DisableUserRequest) -> User;
    /// Lets a user sign in again.
    enable_user(EnableUserRequest) -> User;
    /// Gives a user another password, and ends its sessions.
    reset_password(ResetPasswordRequest) -> User;
}

unary! { roles:
    /// Makes a role.
    create_role(CreateRoleRequest) -> Role;
    /// A page of roles, those that every tenant has first.
    list_roles(ListRolesRequest) -> ListRolesResponse;
    /// Reads one role.
    get_role(GetRoleRequest) -> Role;
    /// Replaces what a role may do.
    update_role(UpdateRoleRequest) -> Role;
    /// Deletes a role that nobody has.
    delete_role(DeleteRoleRequest) -> DeleteRoleResponse;
    /// Gives a role to a user or a key.
    create_role_binding(CreateRoleBindingRequest) -> RoleBinding;
    /// A page of bindings, newest first.
    list_role_bindings(ListRoleBindingsRequest) -> ListRoleBindingsResponse;
    /// Takes a role away again.
    delete_role_binding(DeleteRoleBindingRequest) -> RoleBinding;
}

unary! { enrolments:
    /// Makes a token by which one agent may enrol, once.
    create_join_token(CreateJoinTokenRequest) -> JoinToken;
    /// A page of agents that have enrolled, newest first.
    list_agents(ListAgentsRequest) -> ListAgentsResponse;
    /// Takes an agent's identity away for good.
    revoke_agent(RevokeAgentRequest) -> Agent;
    /// Turns a join token into an agent's identity.
    enroll(EnrollRequest) -> AgentCertificate;
}

unary! { agents:
    /// A new certificate for the agent whose certificate this client shows.
    renew(RenewRequest) -> AgentCertificate;
}

unary! { secrets:
    /// Stores a value: a new secret, or another version of one.
    put_secret(PutSecretRequest) -> Secret;
    /// A page of secrets, by name, without their values.
    list_secrets(ListSecretsRequest) -> ListSecretsResponse;
    /// Deletes a secret, or one version of it.
    delete_secret(DeleteSecretRequest) -> DeleteSecretResponse;
    /// Encrypts secrets under the newest key.
    rotate_secrets(RotateSecretsRequest) -> RotateSecretsResponse;
}

unary! { tenants:
    /// Makes a tenant.
    create_tenant(CreateTenantRequest) -> Tenant;
    /// A page of tenants, newest first.
    list_tenants(ListTenantsRequest) -> ListTenantsResponse;
    /// Reads one tenant.
    get_tenant(GetTenantRequest) -> Tenant;
    /// What a tenant has and uses, beside what it may.
    get_tenant_usage(GetTenantUsageRequest) -> TenantUsage;
    /// Replaces a tenant's name, description, quotas, weight and settings.
    update_tenant(UpdateTenantRequest) -> Tenant;
    /// Refuses a tenant's callers, and lets nothing new of it run.
    suspend_tenant(SuspendTenantRequest) -> Tenant;
    /// Lets a tenant go on.
    resume_tenant(ResumeTenantRequest) -> Tenant;
}

unary! { audit:
    /// A page of the audit log, newest first.
    list_audit_entries(ListAuditEntriesRequest) -> ListAuditEntriesResponse;
    /// Reads one entry of the audit log.
    get_audit_entry(GetAuditEntryRequest) -> AuditEntry;
    /// The signed end of the audit log's chain.
    get_audit_head(GetAuditHeadRequest) -> AuditHead;
    /// Looks through a part of the audit log's chain.
    verify_audit(VerifyAuditRequest) -> VerifyAuditResponse;
}
