#!/usr/bin/awk -f
# Sums a list of numbers, such as [3, 4.5]: the payload is standard input, the job's name and id are in the environment.
{ payload = payload $0 }

END {
  if (payload !~ /^\[[-0-9.eE, ]*\]$/) {
    print "the payload must be a list of numbers, such as [3, 4.5]" > "/dev/stderr"
    exit 100  # It will never be one: to the dead-letter queue.
  }
  gsub(/[][ ]/, "", payload)
  count = split(payload, numbers, ",")
  for (i = 1; i <= count; i++) sum += numbers[i]
  print ENVIRON["HEADRACE_JOB_NAME"], ENVIRON["HEADRACE_JOB_ID"] ": " count, "numbers,", "sum", sum + 0
}
