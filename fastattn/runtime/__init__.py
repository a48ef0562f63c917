"""The process and its machine: threads and forks, memory, control groups, interrupts, files written in one step."""
