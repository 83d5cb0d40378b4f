// The process that holds a pod's namespaces: it waits, collects orphans, and ends at SIGTERM.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) {
  (void)signal;
  _exit(0);
}

static void collect(int signal) {
  (void)signal;
  while (waitpid(-1, 0, WNOHANG) > 0) {
  }
}

int main(void) {
  struct sigaction ended = {.sa_handler = end};
  sigaction(SIGINT, &ended, 0);
  sigaction(SIGTERM, &ended, 0);
  struct sigaction orphan = {.sa_handler = collect, .sa_flags = SA_NOCLDSTOP};
  sigaction(SIGCHLD, &orphan, 0);
  for (;;) {
    pause();
  }
}
