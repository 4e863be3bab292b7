from frontswap.core.layout cimport pager_t
from frontswap.core.uapi cimport uint64_t

cdef extern from * nogil:
    """
    #include <pthread.h>
    #include <semaphore.h>
    """
    const uint64_t MUTEX_BYTES "sizeof(pthread_mutex_t)"
    const uint64_t CONDITION_BYTES "sizeof(pthread_cond_t)"
    const uint64_t SEMAPHORE_BYTES "sizeof(sem_t)"
    const uint64_t RWLOCK_BYTES "sizeof(pthread_rwlock_t)"
    const uint64_t BARRIER_BYTES "sizeof(pthread_barrier_t)"
    int pthread_mutex_trylock(void *mutex)
    int pthread_rwlock_tryrdlock(void *rwlock)
    int pthread_rwlock_trywrlock(void *rwlock)
    int sem_trywait(void *semaphore)

ctypedef void **pp_void
ctypedef int (*wait_function)(void *at) noexcept nogil
ctypedef int (*until_function)(void *at, const void *until) noexcept nogil
ctypedef int (*clock_until_function)(void *at, int clock, const void *until) noexcept nogil
ctypedef int (*condition_function)(void *at, void *mutex) noexcept nogil
ctypedef int (*condition_until_function)(void *at, void *mutex, const void *until) noexcept nogil
ctypedef int (*condition_clock_function)(void *at, void *mutex, int clock, const void *until) noexcept nogil

cdef wait_function real_mutex_lock, real_rdlock, real_wrlock, real_barrier_wait, real_sem_wait
cdef until_function real_mutex_timedlock, real_sem_timedwait
cdef clock_until_function real_mutex_clocklock, real_sem_clockwait
cdef condition_function real_cond_wait
cdef condition_until_function real_cond_timedwait
cdef condition_clock_function real_cond_clockwait

cdef void locks_begin() noexcept
cdef void hold(pager_t *pg, uint64_t address) noexcept nogil
cdef void keep(const void *at, uint64_t n) noexcept nogil

cdef int our_mutex_lock(void *mutex) noexcept nogil
cdef int our_mutex_timedlock(void *mutex, const void *until) noexcept nogil
cdef int our_mutex_clocklock(void *mutex, int clock, const void *until) noexcept nogil
cdef int our_cond_wait(void *at, void *mutex) noexcept nogil
cdef int our_cond_timedwait(void *at, void *mutex, const void *until) noexcept nogil
cdef int our_cond_clockwait(void *at, void *mutex, int clock, const void *until) noexcept nogil
cdef int our_sem_wait(void *at) noexcept nogil
cdef int our_sem_timedwait(void *at, const void *until) noexcept nogil
cdef int our_sem_clockwait(void *at, int clock, const void *until) noexcept nogil
cdef int our_rdlock(void *at) noexcept nogil
cdef int our_wrlock(void *at) noexcept nogil
cdef int our_barrier_wait(void *at) noexcept nogil
