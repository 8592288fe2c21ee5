#pragma once

#include <cstddef>
#include <functional>

namespace fedmed {

/// Run `task(0) … task(count - 1)`, each once, on at most `threads` threads, and return when all are done.
///
/// Tasks must write to separate outputs and must not throw: then no result depends on the number of threads
/// or on who ran what. Threads live for one call only, so a forked process can go on calling kernels. Where
/// the system refuses a thread the others do its work.
void fork_join(std::size_t threads, std::size_t count, const std::function<void(std::size_t)>& task);

}  // namespace fedmed
