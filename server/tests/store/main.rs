//! What every store must do, whatever its engine. Each test runs once on each engine, on a store of its own.
//!
//! PostgreSQL is reached by `ORRERY_TEST_DATABASE_URL`, a database in which schemas may be made, such as
//! `postgres://postgres@127.0.0.1:5432/postgres`.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod agents;
mod apply;
mod arm;
mod audit;
mod caches;
mod catch_up;
mod claim;
#[path = "../system/commit_cutter.rs"]
mod commit_cutter;
mod contention;
mod dead_letters;
mod each;
mod engines;
mod everything;
mod isolation;
mod jobs;
mod keys;
mod lifecycle;
mod limits;
mod locks;
mod logs;
mod lost_commits;
mod model;
mod months;
mod plan;
mod plans;
mod postgres_only;
mod races;
mod reads;
mod reap;
mod redis_hints;
mod release;
mod roles;
mod seals;
mod secrets;
mod sessions;
mod sharing;
mod sqlite_only;
mod support;
mod tenants;
mod texts;
mod totals;
mod trigger;
mod upkeep;
mod users;

/// Makes a test of each function, for one engine.
macro_rules! conformance {
    ($engine:ident { $($module:ident: $($test:ident)+;)+ }) => {
        mod $engine {
            $(mod $module {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $test() {
                    crate::engines::run(crate::engines::$engine(), crate::$module::$test).await;
                })+
            })+
        }
    };
}

/// Every test of the suite.
macro_rules! suite {
    ($engine:ident) => {
        conformance! { $engine {
            jobs:
                what_is_created_reads_back
                names_are_unique_among_jobs_not_deleted
                a_batch_is_created_whole_or_not_at_all
                one_of_many_gets_a_name
                the_quota_holds
                the_quota_holds_under_concurrency
                a_key_makes_one_job
                a_key_outlives_its_job
                a_key_makes_one_job_under_concurrency
                lists_filter
                lists_page_without_gaps
                a_change_raises_the_version
                a_change_may_be_refused
                changes_do_not_overwrite_each_other
                a_rename_meets_a_taken_name
                deleting_frees_the_name_and_keeps_history
                tenants_do_not_see_each_other;
            plan:
                fires_are_made_and_the_cursor_moves
                two_planners_make_a_fire_once
                only_active_jobs_near_their_cursor_are_planned
                waiting_for_the_last_fires_holds_nobody_up
                planned_fires_are_told_of
                a_fire_in_history_is_refused
                omissions_are_written
                a_job_without_a_future_becomes_inactive
                the_next_fire_is_shown
                what_is_not_due_is_not_listed
                pausing_takes_back_what_is_not_due
                stopping_cancels_what_waits_and_runs;
            release:
                due_fires_become_pending_and_are_counted
                nothing_is_released_early
                fires_are_told_what_is_active
                an_omitted_fire_leaves_a_row
                a_replacement_ends_the_others
                a_replacement_ends_earlier_fires_of_its_batch
                two_releases_count_once
                retries_are_not_offered_and_not_counted
                the_maximum_makes_inactive
                the_last_fire_makes_inactive
                manual_jobs_stay_active
                a_delayed_trigger_counts_once;
            arm:
                a_fire_is_granted_ahead_of_its_instant
                a_fire_that_is_too_near_is_not_passed_by_the_next_one
                only_fires_within_reach_are_granted_ahead
                what_comes_back_before_its_instant_was_never_begun
                what_is_granted_ahead_is_counted_once
                the_last_fire_is_left_to_its_release
                a_job_with_a_limit_is_granted_ahead_once_and_alone
                limits_hold_for_what_is_granted_ahead
                keys_hold_for_what_is_granted_ahead
                a_change_of_the_job_calls_back_what_has_not_begun
                what_begins_is_called_back_no_more
                a_pause_takes_back_what_is_not_due
                a_schedule_that_has_lost_an_instant_takes_its_fire_back
                nothing_is_granted_ahead_to_a_stream_that_is_lost
                two_that_arm_grant_a_fire_once;
            trigger:
                a_trigger_waits_at_once
                a_trigger_may_wait_for_its_time
                missing_jobs_are_named
                a_refusal_undoes_the_call
                active_executions_are_counted
                a_key_makes_one_execution
                a_key_makes_one_execution_under_concurrency
                a_key_answers_from_history
                triggers_use_up_the_maximum
                a_call_does_not_pass_the_maximum
                lanes_are_shared_and_listed;
            each:
                each_has_its_own_answer
                a_known_job_that_has_changed_is_seen_as_it_is
                a_key_counts_within_a_group
                a_refused_key_is_free
                limits_hold_within_a_group
                the_maximum_is_exact_under_concurrency
                what_is_given_at_once_is_leased
                beside_a_backlog_little_goes_at_once
                nothing_is_given_to_who_is_gone
                what_is_limited_is_left_to_a_claim
                a_refusal_of_a_known_job_is_its_own
                groups_add_up;
            claim:
                a_claim_grants_leases
                higher_priorities_go_first
                lanes_take_turns
                what_is_not_given_still_waits
                only_named_lanes_are_claimed
                dead_sessions_get_nothing
                a_claim_says_in_which_lanes_nothing_waits
                a_run_keeps_its_version
                what_waits_moves_with_its_job
                limits_hold
                limits_hold_under_concurrency
                nothing_is_granted_twice
                unlimited_jobs_have_no_limit;
            apply:
                a_run_from_start_to_end
                a_failed_run_is_repeated
                old_epochs_are_refused
                an_interruption_costs_nothing
                words_of_the_dead_are_refused
                what_does_not_exist_is_unknown
                events_of_one_batch_go_in_order
                one_end_is_reached_under_a_race
                a_cancel_of_what_waits_ends_it
                a_cancel_of_what_runs_asks_the_agent
                progress_is_kept
                a_released_lease_costs_no_attempt
                what_is_over_stays_over;
            reap:
                lost_leases_are_taken_back
                at_most_once_is_not_repeated
                three_losses_are_enough
                overdue_attempts_time_out
                what_has_not_begun_by_its_start_deadline_ends
                living_sessions_are_left_alone
                two_reapers_take_back_once
                what_is_next_is_told;
            limits:
                a_claim_says_whether_anything_waits_still
                no_crash_leaks_a_place
                every_limit_holds_under_concurrency
                a_backlog_at_its_limit_holds_nobody_up
                many_jobs_at_their_limit_hold_nobody_up
                order_holds_behind_a_backlog
                a_key_is_shared_by_jobs_and_told_apart_by_parameters
                an_edit_changes_the_limit_of_what_waits
                a_tenant_may_have_its_own_limit
                a_queue_may_be_limited
                rooms_are_told
                retries_keep_no_place;
            dead_letters:
                lost_work_is_a_dead_letter
                other_ends_are_no_dead_letters
                dead_letters_page_and_filter
                dead_letters_are_the_tenants
                a_discard_is_kept
                a_release_makes_one_execution
                a_refused_release_changes_nothing
                a_dead_letter_comes_with_the_end
                dead_letters_go_with_history;
            sessions:
                a_session_opens_and_is_listed
                a_session_resumes_under_a_new_attachment
                another_agent_cannot_resume
                resuming_takes_back_what_is_not_named
                resuming_takes_back_for_good_what_may_run_once
                who_has_held_a_session_all_along_knows_what_it_has_not_begun
                nothing_is_granted_to_an_older_attachment
                only_the_newest_attachment_renews
                an_outage_costs_no_session
                the_dead_are_not_renewed
                closing_takes_leases_back
                draining_is_by_tenant
                sessions_page
                detaching_keeps_the_session;
            catch_up:
                what_is_on_time_is_planned_before_a_backlog
                a_backlog_comes_due_in_parts
                a_backlog_has_no_more_places_than_it_is_given
                a_backlog_is_granted_behind_what_is_on_time
                priorities_and_retries_are_not_held_back
                what_was_planned_before_an_outage_is_late_too
                a_long_outage_is_caught_up_behind_what_is_on_time;
            races:
                the_first_end_stands
                a_renewal_and_an_expiry_agree;
            everything:
                everything_at_once_adds_up;
            logs:
                lines_are_kept_in_order
                repeated_lines_are_kept_once
                lines_of_old_epochs_are_dropped
                the_budget_holds_and_says_so
                finished_executions_still_log
                only_the_tenant_writes
                a_result_that_came_too_late_is_said_once
                logs_are_the_tenants;
            reads:
                executions_page_without_gaps
                executions_are_filtered
                statistics_add_up
                queues_are_counted
                counts_are_by_tenant
                counts_are_of_one_moment
                loads_are_counted
                omissions_page
                other_tenants_see_nothing;
            totals:
                statistics_are_those_of_the_list
                every_filter_is_kept
                nothing_is_missed_while_it_is_added_up;
            texts:
                digits_are_kept
                nuls_do_no_harm
                odd_json_does_not_fail_its_batch;
            agents:
                a_join_token_lets_one_agent_in
                of_many_with_one_token_one_enrols
                a_token_that_has_expired_lets_nobody_in
                agents_are_their_tenants
                a_renewal_is_noted_until_the_agent_is_revoked
                nothing_counts_that_a_revoked_agent_says
                who_may_not_be_connected_is_named
                a_session_is_its_agents_alone;
            keys:
                a_key_is_found_by_its_hash
                expired_keys_are_not_found
                revoked_keys_are_not_found_and_stay_listed
                the_latest_use_of_a_key_is_kept;
            users:
                a_user_reads_back_and_is_its_tenants
                names_of_users_are_unique_in_their_tenant
                a_change_leaves_the_rest
                a_session_lives_until_its_end
                a_refresh_token_is_good_once
                of_two_that_come_at_once_one_is_the_thief
                sessions_end_with_what_they_were_begun_with
                what_becomes_of_a_session_is_written_when_it_happens;
            tenants:
                a_tenant_reads_back_and_changes
                names_of_tenants_are_unique
                a_change_of_a_tenant_may_be_refused
                changes_of_a_tenant_do_not_overwrite_each_other
                tenants_page
                jobs_are_told_of_a_suspension
                nothing_of_a_suspended_tenant_fires_or_is_granted
                fires_beyond_the_hourly_quota_are_omitted
                what_fires_never_passes_the_quota
                what_is_set_aside_never_passes_the_quota
                a_tenant_says_what_one_execution_may_print
                a_tenants_weight_is_its_share;
            roles:
                a_role_reads_back_and_is_its_tenants
                bindings_are_kept_once_and_listed
                what_somebody_has_is_found
                a_role_that_somebody_has_stays
                no_binding_is_left_of_a_deleted_role
                no_user_has_a_deleted_role
                lists_show_what_a_tag_lets_see;
            secrets:
                versions_are_kept_and_found
                a_deleted_secret_is_gone_and_its_versions_never_come_again
                secrets_page_by_name_and_tenants_do_not_see_each_other
                swapped_rows_do_not_open
                encryption_that_is_off_or_wrong_stops_the_start
                keys_rotate_under_load
                what_changed_meanwhile_is_not_replaced
                sealed_values_come_and_go_with_their_job;
            audit:
                every_change_of_a_caller_is_written
                changes_of_who_and_what_may_are_written
                an_entry_is_there_only_if_its_change_is
                of_triggers_that_are_made_together_each_is_its_callers
                entries_are_found_by_what_is_asked;
            seals:
                what_waits_is_sealed_in_the_chain_of_its_tenant
                chains_have_no_gap_whoever_seals
                who_finds_nothing_lets_go_of_the_chain
                what_is_dropped_leaves_a_signed_checkpoint;
            upkeep:
                upkeep_runs
                old_rows_go
                one_coordinator_at_a_time
                coordinators_come_and_go
                metrics_are_recorded;
            sharing:
                a_lock_has_one_holder
                a_lock_ends_by_itself
                only_its_holder_gives_a_lock_back
                generations_follow_one_another;
            lifecycle:
                the_clock_is_the_databases
                hints_reach_everybody_here
                watchers_hear_what_has_changed
                many_workers_and_cancels_reach_one_end_each;
        } }
    };
}

suite!(postgres);
suite!(sqlite);
