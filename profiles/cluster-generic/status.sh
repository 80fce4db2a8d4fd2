#!/bin/bash
# One word on the job of this id: running, success or failed. A scheduler that does not answer may
# do so later, an id that it does not know is of a job that is lost.
answer=$(scontrol show job --oneliner "$1" 2>&1)
case "$answer" in
  *JobState=COMPLETED*) echo success ;;
  *JobState=PENDING* | *JobState=RUNNING* | *JobState=CONFIGURING* | *JobState=COMPLETING* | *JobState=SUSPENDED* | *"Unable to contact"*) echo running ;;
  *) echo failed ;;
esac
