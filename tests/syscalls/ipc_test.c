// SPDX-License-Identifier: Apache-2.0
// System V shared memory, semaphores, message queues; POSIX message queues.
#include "kit.h"

#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

TEST(shared_memory) {
  int id = shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0600);
  if (id < 0 && errno == ENOSYS) SKIP("no System V shared memory");
  ASSERT_TRUE(id >= 0);
  char *m = shmat(id, NULL, 0);
  ASSERT_TRUE(m != (void *)-1);
  IN_CHILD(pid, strcpy(m, "child"));
  EXPECT_EXIT(pid, 0);
  EXPECT_STR(m, "child");
  struct shmid_ds d;
  OK(shmctl(id, IPC_STAT, &d));
  EXPECT_EQ(d.shm_nattch, 1);
  EXPECT_EQ(d.shm_segsz, 8192);
  char *r = shmat(id, NULL, SHM_RDONLY);
  EXPECT_STR(r, "child");
  OK(shmctl(id, IPC_RMID, NULL));
  EXPECT_STR(m, "child");
  OK(shmdt(m));
  OK(shmdt(r));
  EXPECT_ERR(shmctl(id, IPC_STAT, &d), EINVAL);
}
TEST(shared_memory_errors) {
  int id = shmget(0x7e57, 4096, IPC_CREAT | 0600);
  if (id < 0 && errno == ENOSYS) SKIP("no System V shared memory");
  EXPECT_ERR(shmget(0x7e57, 4096, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
  EXPECT_ERR(shmget(0x7e57, 100000, 0), EINVAL);
  EXPECT_EQ(shmget(0x7e57, 0, 0), id);
  EXPECT_ERR(shmget(0x7e58, 4096, 0), ENOENT);
  EXPECT_ERR(shmget(IPC_PRIVATE, 0, IPC_CREAT), EINVAL);
  EXPECT_ERR(shmat(id, (void *)1, 0), EINVAL);
  EXPECT_ERR(shmdt((void *)4096), EINVAL);
  EXPECT_EQ(shmctl(id, IPC_RMID, NULL), 0);
}
TEST(semaphores) {
  int id = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600);
  if (id < 0 && errno == ENOSYS) SKIP("no System V semaphores");
  ASSERT_TRUE(id >= 0);
  EXPECT_EQ(semctl(id, 0, SETVAL, 1), 0);
  EXPECT_EQ(semctl(id, 0, GETVAL), 1);
  struct sembuf take = {0, -1, 0}, try = {0, -1, IPC_NOWAIT}, give = {0, 1, 0};
  OK(semop(id, &take, 1));
  EXPECT_ERR(semop(id, &try, 1), EAGAIN);
  IN_CHILD(pid, OK(semop(id, &take, 1)));
  kit_wait_asleep(pid);
  EXPECT_EQ(semctl(id, 0, GETNCNT), 1);
  OK(semop(id, &give, 1));
  EXPECT_EXIT(pid, 0);
  struct sembuf undo = {1, 3, SEM_UNDO};
  IN_CHILD(other, OK(semop(id, &undo, 1)));
  EXPECT_EXIT(other, 0);
  EXPECT_EQ(semctl(id, 1, GETVAL), 0);
  struct sembuf bad = {9, 1, 0};
  EXPECT_ERR(semop(id, &bad, 1), EFBIG);
  IN_CHILD(waiter, EXPECT_ERR(semop(id, &take, 1), EIDRM));
  kit_wait_asleep(waiter);
  OK(semctl(id, 0, IPC_RMID));
  EXPECT_EXIT(waiter, 0);
}
TEST(message_queues) {
  int id = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
  if (id < 0 && errno == ENOSYS) SKIP("no System V message queues");
  ASSERT_TRUE(id >= 0);
  struct { long type; char text[16]; } m = {2, "two"};
  OK(msgsnd(id, &m, 4, 0));
  m.type = 1;
  strcpy(m.text, "one");
  OK(msgsnd(id, &m, 4, 0));
  EXPECT_EQ(msgrcv(id, &m, 16, 1, 0), 4);
  EXPECT_STR(m.text, "one");
  EXPECT_ERR(msgrcv(id, &m, 2, 0, 0), E2BIG);
  EXPECT_EQ(msgrcv(id, &m, 2, 0, MSG_NOERROR), 2);
  EXPECT_ERR(msgrcv(id, &m, 16, 0, IPC_NOWAIT), ENOMSG);
  m.type = 0;
  EXPECT_ERR(msgsnd(id, &m, 4, 0), EINVAL);
  OK(msgctl(id, IPC_RMID, NULL));
}
TEST(posix_queues) {
  struct mq_attr a = {.mq_maxmsg = 4, .mq_msgsize = 32};
  char name[32];
  sprintf(name, "/guest-test-%d", getpid());
  mqd_t q = mq_open(name, O_CREAT | O_RDWR | O_EXCL, 0600, &a);
  ASSERT_TRUE(q >= 0);
  OK(mq_send(q, "low", 4, 1));
  OK(mq_send(q, "high", 5, 9));
  char b[32];
  unsigned priority;
  EXPECT_EQ(mq_receive(q, b, 32, &priority), 5);
  EXPECT_EQ(priority, 9);
  EXPECT_ERR(mq_receive(q, b, 8, NULL), EMSGSIZE);
  OK(mq_getattr(q, &a));
  EXPECT_EQ(a.mq_curmsgs, 1);
  OK(mq_unlink(name));
  EXPECT_ERR(mq_open(name, O_RDWR), ENOENT);
}
