// bcc takes a folder for a kernel's headers if this file is in it.
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_NET 1
