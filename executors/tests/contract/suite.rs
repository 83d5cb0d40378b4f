//! The list of the contract's cases.

/// Runs every case of the contract against a fixture.
macro_rules! contract {
    ($executor:ident, $fixture:expr) => {
        contract!($executor, $fixture, final_states:
            ranks_succeed_and_leave_results,
            an_exit_code_is_the_class_of_the_failure,
            a_record_of_a_rank_is_the_failure,
            a_failed_rank_ends_the_job,
            a_script_is_a_job_of_one_process,
            a_failed_script_is_a_failed_job,
            an_unknown_handle_is_refused
        );
        contract!($executor, $fixture, rendering:
            rendering_is_pure_and_reproducible,
            the_launchers_environment_is_not_written_to_disk,
            odd_values_reach_the_ranks
        );
        contract!($executor, $fixture, output:
            output_is_reported_whole_and_in_order,
            a_watch_starts_at_its_offset,
            a_watch_may_follow_several_ranks_or_none,
            two_watches_see_the_same,
            a_watch_that_starts_late_sees_everything
        );
        contract!($executor, $fixture, cancelling:
            cancelling_ends_the_job,
            cancelling_twice_kills_it,
            cancelling_works_from_a_handle_alone
        );
        contract!($executor, $fixture, attempts:
            a_new_folder_is_exclusive,
            a_folder_holds_one_job_at_a_time,
            a_retry_runs_in_the_same_folder,
            the_status_of_many_jobs_keeps_their_order
        );
        contract!($executor, $fixture, joined:
            joined_tasks_end_each_for_itself
        );
        contract!($executor, $fixture, failures:
            a_connection_lost_during_submit_starts_one_job,
            a_connection_lost_during_a_watch_is_reported_and_restored,
            a_killed_launcher_leaves_a_definite_state
        );
    };
    ($executor:ident, $fixture:expr, $group:ident: $($case:ident),+) => {
        mod $group {
            $(
                #[test]
                fn $case() {
                    crate::fixture::run(stringify!($case), $fixture, crate::cases::$group::$case);
                }
            )+
        }
    };
}
