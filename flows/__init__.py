"""Example flows: complete, and meant to be copied.

`research_pipeline` runs circuits once; `nightly_run` every night, with salvage, a deadline and older runs taken up;
`collector` resumes suspended nightly runs and cancels the jobs of cancelled ones. `calibration_snapshot` keeps the
calibrations that the devices have now, `calibration_backfill` fetches those of the past, and `calibration_compaction`
merges the files of both.
"""
