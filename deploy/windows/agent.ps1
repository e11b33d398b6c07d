# Tells rdp-proxy how this session host is: one line of HAProxy's agent-check text to whoever connects.
# health: {agent: {port: 9707}} in a pool asks for it. Windows Server 2016 or newer, as SYSTEM or an administrator:
#   New-NetFirewallRule -DisplayName rdp-proxy-agent -Direction Inbound -Protocol TCP -LocalPort 9707 `
#       -RemoteAddress 10.0.0.5 -Action Allow      # the proxies alone
#   Register-ScheduledTask rdp-proxy-agent -User SYSTEM -Trigger (New-ScheduledTaskTrigger -AtStartup) `
#       -Action (New-ScheduledTaskAction powershell '-NoProfile -ExecutionPolicy Bypass -File C:\rdp-proxy\agent.ps1') `
#       -Settings (New-ScheduledTaskSettingsSet -ExecutionTimeLimit 0 -RestartCount 99 `
#           -RestartInterval (New-TimeSpan -Minutes 1))    # without a limit of 0, Windows ends it after three days
#   Start-ScheduledTask rdp-proxy-agent
param([int]$Port = 9707)
$ErrorActionPreference = 'Stop'

function Get-Line {
    # In drain mode, or with logons switched off (change logon): nobody new, and who has a session may come.
    $service = Get-CimInstance -Namespace root/cimv2/TerminalServices -ClassName Win32_TerminalServiceSetting
    $will = if ($service.SessionBrokerDrainMode -ne 0 -or $service.Logons -ne 0) { 'drain' } else { 'ready' }
    $cpu = (Get-CimInstance -ClassName Win32_Processor | Measure-Object -Property LoadPercentage -Average).Average
    $sessions = (Get-CimInstance -ClassName Win32_PerfFormattedData_LocalSessionManager_TerminalServices).ActiveSessions
    # A busy host gets fewer new clients, never none: that is what drain says.
    $percent = [Math]::Max(10, 100 - [int]$cpu)
    "$will up $percent% #$sessions active sessions, CPU $([int]$cpu) %"
}

$listener = [System.Net.Sockets.TcpListener]::new([System.Net.IPAddress]::Any, $Port)
$listener.Start()
while ($true) {
    $client = $listener.AcceptTcpClient()
    try {
        $bytes = [System.Text.Encoding]::ASCII.GetBytes((Get-Line) + "`n")
        $client.GetStream().Write($bytes, 0, $bytes.Length)
    } catch {
        # What cannot be read is not told: the proxy goes by its health checks then.
        Write-Warning $_
    } finally {
        $client.Close()
    }
}
