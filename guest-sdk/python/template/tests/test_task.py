import unittest
from datetime import timedelta

from stem_guest import StopNotice
from stem_guest.testing import Stop, attempt

from task import add_up

TWENTY = list(range(1, 21))


class AddUp(unittest.TestCase):
    def test_numbers_are_added_up_with_progress(self) -> None:
        ran = attempt(add_up, {"numbers": TWENTY, "delayMs": 5})
        self.assertEqual(ran.result, {"sum": 210, "count": 20, "resumedAt": 0})
        self.assertEqual([update.message for update in ran.progress], ["number 10 of 20", "number 20 of 20"])
        self.assertEqual(ran.elapsed, timedelta(milliseconds=100))

    def test_what_is_no_number_fails_the_task_for_good(self) -> None:
        failure = attempt(add_up, {"numbers": [1, "two"]}).failure
        self.assertEqual((failure.kind, failure.code, failure.message), ("fatal", "bad-number", 'numbers[1] is "two"'))

    def test_arguments_of_another_shape_are_refused(self) -> None:
        failure = attempt(add_up, {"number": 1}).failure
        self.assertEqual((failure.kind, failure.code), ("fatal", "invalid-arguments"))

    def test_a_stopped_attempt_leaves_off_where_it_was_and_the_next_goes_on_there(self) -> None:
        first = attempt(add_up, {"numbers": TWENTY}, stop=Stop(StopNotice("worker-drain"), after_beats=12))
        self.assertEqual((first.failure.kind, first.failure.code), ("retryable", "worker-drain"))
        self.assertEqual(first.checkpoint, {"done": 11, "sum": 66})
        second = attempt(add_up, {"numbers": TWENTY}, checkpoint=first.checkpoint)
        self.assertEqual(second.result, {"sum": 210, "count": 20, "resumedAt": 11})
        self.assertEqual(second.log[0].message, "going on after number 11")

    def test_an_attempt_that_is_ended_by_force_leaves_its_checkpoint(self) -> None:
        ran = attempt(add_up, {"numbers": TWENTY}, terminate_after_beats=15)
        self.assertTrue(ran.terminated)
        self.assertEqual(ran.checkpoint, {"done": 10, "sum": 55})


if __name__ == "__main__":
    unittest.main()
